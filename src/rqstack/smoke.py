"""The built-in task that `rqstack smoke` runs."""

from __future__ import annotations

from rqstack.tasks import task


@task(description="rqstack smoke test", result_ttl=600, failure_ttl=600)
def check(number: int) -> int:
    """Give the number back, doubled."""
    return 2 * number
