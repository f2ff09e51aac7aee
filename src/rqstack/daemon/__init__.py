"""The background worker: start, stop, pid file and log file."""
