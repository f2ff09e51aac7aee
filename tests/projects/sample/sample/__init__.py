"""Tasks for the command line."""
