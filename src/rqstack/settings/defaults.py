"""Defaults that the health check shares with `fields`, which takes too long to import for it."""

from __future__ import annotations

REDIS_URL = "redis://127.0.0.1:6379/0"

DEAD_AFTER = 12
"""Seconds without a heartbeat after which a process counts as dead."""

MAX_PAYLOAD = 64
"""MiB that the arguments or the result of a job may have."""
