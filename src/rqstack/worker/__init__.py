"""The worker: a supervisor process and its horses, in RQ's own keys."""
