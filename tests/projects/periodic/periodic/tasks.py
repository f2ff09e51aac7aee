"""What the cron table fires."""

from __future__ import annotations

from rqstack import task


@task
def add(a: int, b: int = 0) -> int:
    return a + b
