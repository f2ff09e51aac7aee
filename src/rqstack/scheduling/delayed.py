"""Moves delayed jobs and retries into their queues when they are due: RQ's scheduler without its gaps.

RQ's own (`rq worker --with-scheduler`) reads what is due, and writes the queue and the registry later. Where it holds
the lock of a queue this mover keeps off that queue, so that nothing is enqueued twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from rqstack.scheduling.scripts import MOVE
from rqstack.transport import keys
from rqstack.transport.errors import is_damage
from rqstack.transport.timestamps import format_seconds

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("rqstack.scheduler")

BATCH = 500
"""Jobs that one script moves: Redis does nothing else meanwhile."""

ORPHAN_AGE = 60
"""Seconds after which the id of a job that does not exist is dropped."""


@dataclass
class Moved:
    """What a call of `move_due` did.

    Args:
        jobs: Jobs that it put into their queue.
        dropped: Ids without a job that it removed.
        left: Ids without a job that may yet get one.
        failed: Queues whose data in Redis is damaged, so that nothing could be moved.
    """

    jobs: int = 0
    dropped: int = 0
    left: int = 0
    failed: list[str] = field(default_factory=list)


class DelayedJobs:
    """The delayed jobs and retries of a Redis: moves those that are due into their queues.

    Args:
        connection: Redis.
        job_timeout: Seconds, for jobs that were stored without a timeout.
    """

    def __init__(self, connection: Redis, job_timeout: int = 180) -> None:
        self.connection: Any = connection
        self.job_timeout = job_timeout
        self._said: dict[str, str] = {}

    def queues(self) -> list[str]:
        """The names of all queues that Redis knows."""
        found = self.connection.smembers(keys.QUEUES)
        return sorted(key.decode().removeprefix(keys.QUEUE) for key in found)

    def move_due(self, now: float, queues: Iterable[str] | None = None) -> Moved:
        """Put all jobs that are due into their queues, in the order of their times.

        Args:
            now: Seconds since the epoch.
            queues: Default: all.
        """
        total = Moved()
        for queue in self.queues() if queues is None else queues:
            try:
                self._move(queue, now, total)
                self._said.pop(queue, None)
            except ResponseError as error:
                if not is_damage(error):
                    raise
                total.failed.append(queue)
                if self._said.get(queue) != str(error):
                    self._said[queue] = str(error)
                    log.error("%s: its delayed jobs cannot be moved, and wait: %s", queue, error)
        return total

    def _move(self, queue: str, now: float, total: Moved) -> None:
        names = [keys.SCHEDULED + queue, keys.QUEUE + queue, keys.QUEUES, keys.SCHEDULER_LOCK + queue]
        passed = 0
        while True:
            arguments = [round(now, 3), BATCH, format_seconds(now), queue, self.job_timeout, ORPHAN_AGE, passed]
            moved, dropped, left = MOVE(self.connection, names, arguments)
            if moved < 0:
                return
            total.jobs += moved
            total.dropped += dropped
            total.left += left
            passed += left
            if moved:
                log.info("%s: %d delayed jobs are due and queued", queue, moved)
            if dropped:
                log.warning("%s: %d delayed jobs are gone from Redis (expired or deleted) and dropped", queue, dropped)
            if moved + dropped + left < BATCH:
                return
