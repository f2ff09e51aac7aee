"""The built-in task that `rqstack smoke` runs."""

from __future__ import annotations

from rqstack.tasks import task

QUEUES = ("short-running", "long-running")
"""The queues of the two worker services."""


def _rate(number: int, rate: str | None = None) -> str | None:
    return rate


@task(description="rqstack smoke test", rate_limit=_rate, result_ttl=600, failure_ttl=600)
def check(number: int, rate: str | None = None) -> int:
    """Give a number back, doubled; never more often than `rate` over all workers."""
    return 2 * number
