"""The built-in task that `rqstack smoke` runs."""

from __future__ import annotations

from rqstack.tasks import task

QUEUES = ("short-running", "long-running")
"""Default queues: those of the two worker services."""


def _rate(number: int, rate: str | None = None) -> str | None:
    return rate


@task(description="rqstack smoke test", rate_limit=_rate, result_ttl=600, failure_ttl=600)
def check(number: int, rate: str | None = None) -> int:
    """Return a number doubled, at most `rate` times over all workers."""
    return 2 * number
