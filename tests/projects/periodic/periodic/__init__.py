"""A cron table with something to do each second."""
