"""What is served over HTTP: the web page of jobs."""
