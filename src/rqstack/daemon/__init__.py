"""The background worker: pid file, log file, start and stop."""
