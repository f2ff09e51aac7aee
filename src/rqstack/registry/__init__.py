"""What a task is, and where tasks are found."""
