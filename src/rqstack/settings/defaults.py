"""Defaults that a health check needs too, which has no time to load the settings."""

from __future__ import annotations

REDIS_URL = "redis://127.0.0.1:6379/0"

DEAD_AFTER = 12
"""Seconds without a heartbeat."""
