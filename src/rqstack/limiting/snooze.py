"""Puts a job back for later without counting a run: a job over its rate limit."""

from __future__ import annotations

import sys

from rq import Retry


class Snooze(Retry):
    """Returned by a job: the worker schedules it again.

    RQ's own worker understands it as the Retry that it is, though it counts it among the worker's failures and keeps a
    result of type "retried"; settle.lua does neither.

    Args:
        wait: Seconds.
    """

    def __init__(self, wait: float) -> None:
        # RQ's times are whole seconds, cut off: one more, so that the job does not come back too early to be let in.
        super().__init__(max=sys.maxsize, interval=int(wait) + 1)
        self.wait = wait
