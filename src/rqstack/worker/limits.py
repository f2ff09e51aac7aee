"""When a horse ends, and with which exit code."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

DONE = 0
"""Exit code: it was told to stop, or has done what it was started for."""

RECYCLE = 73
"""Exit code: it has run its jobs or grown too large, and wants to be replaced."""


RETRY = 75
"""Exit code of a side job that Redis was unavailable for."""

_LONGEST_BLOCK = 60.0
"""Seconds that one wait in Redis takes at most, with many queues."""

OVERDUE = 5.0
"""Seconds after which a wait that Redis should have ended counts as cut off."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a horse ends.

    Args:
        burst: When the queues are empty.
        max_jobs: After this many jobs, and with it its worker.
        recycle_jobs: After this many jobs, to be replaced.
        max_rss: Above this many MiB of memory, to be replaced.
        max_idle: After this many seconds without a job.
        block: Seconds that one wait in Redis takes at most.
        batch: How many tiny jobs to claim at once.
    """

    burst: bool = False
    max_jobs: int | None = None
    recycle_jobs: int | None = None
    max_rss: int | None = None
    max_idle: float | None = None
    block: float = 7.0
    batch: int = 8

    def left(self, jobs: int) -> int | None:
        """The number of jobs that a horse which has run `jobs` may still run; None for no limit."""
        limits = [limit - jobs for limit in (self.max_jobs, self.recycle_jobs) if limit is not None]
        return min(limits) if limits else None

    def reached(self, jobs: int) -> int | None:
        """The exit code of a horse that has run this many jobs, if it is to end now."""
        if self.max_jobs is not None and jobs >= self.max_jobs:
            return DONE
        if self.recycle_jobs is not None and jobs >= self.recycle_jobs:
            return RECYCLE
        # Between jobs: a limit below what a new horse needs would otherwise let none run.
        if self.max_rss is not None and jobs and _peak_mib() > self.max_rss:
            return RECYCLE
        return None


def block_seconds(dead_after: float, queues: int) -> float:
    """Seconds that one wait in Redis takes at most.

    With few queues it is shorter than `dead_after`, so that Redis gives no job to a worker that was cut off and is
    taken for dead. Each wait on each queue is a command: with many queues they are longer, so that all together are
    about one command per second, and such a job is found by the later checks of a dead supervisor.
    """
    return max(dead_after * 0.6, min(queues * 1.2, _LONGEST_BLOCK))


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024
