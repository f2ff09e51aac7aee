"""What is measured: rq-exporter and what is added to it."""
