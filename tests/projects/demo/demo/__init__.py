"""Two tasks for a stack without Docker."""
