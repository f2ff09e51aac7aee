"""Moves delayed jobs and retries into their queues when they are due, and ready jobs that a dead RQ worker has left.

One script moves a batch atomically. RQ's own scheduler (`rq worker --with-scheduler`) reads due jobs first and writes
queue and registry later, so a queue whose lock it holds is left to it: otherwise a job would be enqueued twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from redis.exceptions import ResponseError

from rqstack.scheduling.scripts import MOVE
from rqstack.transport import keys
from rqstack.transport.damaged import LogOnce, name_of
from rqstack.transport.errors import is_damage
from rqstack.transport.timestamps import format_seconds

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("rqstack.scheduler")

BATCH = 500
"""Jobs per script call. Redis serves nobody else while a script runs."""

ORPHAN_AGE = 60
"""Seconds past its due time after which an id without a job is dropped."""

Kind = Literal["delayed", "ready"]
_PLACES: dict[Kind, tuple[str, str]] = {
    # Where jobs of a kind are, and the status that they have there.
    "delayed": (keys.SCHEDULED, "scheduled"),
    "ready": (keys.READY, "ready_to_enqueue"),
}


@dataclass
class MoveResult:
    """The outcome of `DelayedJobs.move_due`.

    Args:
        moved: Jobs moved into their queue, or to those that wait for a slot of their RateLimit.
        dropped: Ids removed because their job does not exist, or is not delayed any more.
        pending: Ids kept although their job does not exist: RQ may be about to write it.
        damaged: Queues that were skipped because their data in Redis is damaged.
    """

    moved: int = 0
    dropped: int = 0
    pending: int = 0
    damaged: list[str] = field(default_factory=list)


class DelayedJobs:
    """The delayed jobs and retries of all queues.

    Args:
        job_timeout: Seconds, for jobs that were stored without a timeout.
    """

    def __init__(self, connection: Redis, job_timeout: int = 180) -> None:
        self.connection: Any = connection
        self.job_timeout = job_timeout
        self._damage = LogOnce(log)

    def queues(self) -> list[str]:
        """The names of all queues in RQ's index."""
        members = self.connection.smembers(keys.QUEUES)
        names = (name for key in members if (name := name_of(key)) is not None)
        return sorted(name.removeprefix(keys.QUEUE) for name in names)

    def move_due(self, now: float, queues: Iterable[str] | None = None) -> MoveResult:
        """Move all due jobs into their queues, ordered by due time.

        Args:
            now: Seconds since the epoch.
            queues: Default: all.
        """
        return self._move_all("delayed", now, self.queues() if queues is None else queues)

    def move_ready(self, now: float, queues: Iterable[str]) -> MoveResult:
        """Enqueue jobs whose dependencies are met, and that RQ's worker has not enqueued: it may have died.

        RQ's workers check that a job is still there when they enqueue it, so none is enqueued twice.

        Args:
            now: Seconds since the epoch.
        """
        return self._move_all("ready", now, queues)

    def _move_all(self, kind: Kind, now: float, queues: Iterable[str]) -> MoveResult:
        result = MoveResult()
        for queue in queues:
            try:
                self._move(kind, queue, now, result)
                self._damage.forget(kind + queue)
            except ResponseError as error:
                if not is_damage(error):
                    raise
                result.damaged.append(queue)
                self._damage.error(
                    kind + queue, "%s: its %s jobs cannot be moved and stay %s: %s", queue, kind, kind, error
                )
        return result

    def _move(self, kind: Kind, queue: str, now: float, result: MoveResult) -> None:
        place, status = _PLACES[kind]
        names = [place + queue, keys.QUEUE + queue, keys.QUEUES, keys.SCHEDULER_LOCK + queue]
        offset = 0
        while True:
            arguments = [round(now, 3), BATCH, format_seconds(now), queue, self.job_timeout, ORPHAN_AGE, offset, status]
            moved, dropped, pending = MOVE(self.connection, names, arguments)
            if moved < 0:  # RQ's scheduler holds the queue's lock
                return
            result.moved += moved
            result.dropped += dropped
            result.pending += pending
            offset += pending
            if moved:
                log.info("%s: enqueued %d %s jobs", queue, moved, kind)
            if dropped:
                log.warning(
                    "%s: dropped %d ids of %s jobs that no longer exist in Redis (expired or deleted) or have gone on "
                    "by another way",
                    queue,
                    dropped,
                    kind,
                )
            if moved + dropped + pending < BATCH:
                return
