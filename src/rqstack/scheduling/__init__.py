"""The schedule: one-off, delayed and repeated jobs."""
