"""Counts per task: jobs by outcome, failures by exception, histograms of waiting and running times.

Counts are kept in the process for a fraction of a second and go to Redis with the script that finishes a job, so they
cost no round trip, and nothing has to be scraped from a worker. They are fields of one hash, `rqstack:metrics`, each
named by a JSON list: `["processed", queue, task, status]`, `["failures", queue, task, exception]`,
`["wait", queue, task, bucket]` and `["run", queue, task, bucket]` with the bucket's upper bound in seconds, and
`["wait_sum", queue, task]`, `["run_sum", queue, task]` in seconds.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

WAIT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
MOST_TASKS = 200
"""Tasks that a process counts separately; the rest count as `other`, so that generated names do not fill Redis."""

INTERVAL = 0.2
"""Seconds between two deliveries of counts while jobs follow each other."""


@lru_cache(maxsize=8192)
def field(*parts: str) -> bytes:
    """The name of a field."""
    return json.dumps(parts, separators=(",", ":")).encode()


class Counters:
    """Counts that have not been sent yet."""

    def __init__(self) -> None:
        self._counts: dict[bytes | str, float] = {}
        self._tasks: set[str] = set()
        self._sent = 0.0

    def add(self, queue: str, task: str, status: str, *, wait: float | None = None, run: float | None = None) -> None:
        """Count a job that ended.

        Args:
            queue: Its queue.
            task: Its function's name.
            status: finished, failed, retried, killed or stopped.
            wait: Seconds it waited; None if not known.
            run: Seconds it ran; None if not known.
        """
        task = self._known(task)
        self._count(field("processed", queue, task, status), 1)
        if wait is not None:
            self._count(field("wait", queue, task, _bucket(WAIT_BUCKETS, wait)), 1)
            self._count(field("wait_sum", queue, task), wait)
        if run is not None:
            self._count(field("run", queue, task, _bucket(RUN_BUCKETS, run)), 1)
            self._count(field("run_sum", queue, task), run)

    def add_failure(self, queue: str, task: str, exception: str) -> None:
        """Count an exception by the name of its class."""
        self._count(field("failures", queue, self._known(task), exception), 1)

    def is_due(self, now: float) -> bool:
        """Whether it is time to deliver the counts; `now` is monotonic time."""
        return now - self._sent >= INTERVAL

    def take(self, now: float) -> list[bytes | str]:
        """Take all counts, as pairs for settle.lua."""
        self._sent = now
        pairs: list[bytes | str] = []
        for name, amount in self._counts.items():
            pairs += (name, f"{amount:.6f}" if isinstance(amount, float) else str(amount))
        self._counts.clear()
        return pairs

    def put_back(self, pairs: Sequence[bytes | str]) -> None:
        """Put back counts that `take` returned and settle.lua did not add."""
        for name, amount in zip(pairs[::2], pairs[1::2], strict=True):
            self._count(name, float(amount))

    def __bool__(self) -> bool:
        return bool(self._counts)

    def _count(self, name: bytes | str, amount: float) -> None:
        counts = self._counts
        counts[name] = counts.get(name, 0) + amount

    def _known(self, task: str) -> str:
        if task not in self._tasks:
            if len(self._tasks) >= MOST_TASKS:
                return "other"
            self._tasks.add(task)
        return task


def _bucket(bounds: tuple[float, ...], value: float) -> str:
    place = bisect_left(bounds, value)
    return str(bounds[place]) if place < len(bounds) else "+Inf"
