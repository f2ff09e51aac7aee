"""Operations on jobs that are on record: empty, purge, requeue, cancel.

RQ's `empty` is one script over the whole queue, which blocks Redis for seconds at 300,000 jobs; its `requeue` takes
three round trips per job. Here each call is one short atomic script, so a crash never leaves a job half removed; and a
call whose reply was lost is sent again without taking more jobs.
"""

from __future__ import annotations

import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rqstack.transport import keys
from rqstack.transport.pooled import PooledSender
from rqstack.transport.protocol import pack
from rqstack.transport.scripts import Script
from rqstack.transport.timestamps import format_seconds

if TYPE_CHECKING:
    from redis import Redis

_OPERATION = "bulk/lua/operation.lua"
_RATE_LIMITED = ("transport/lua/write.lua", "enqueue/lua/push_job.lua", "enqueue/lua/rate_limited.lua")
_ON_QUEUE = (*_RATE_LIMITED, "enqueue/lua/put_on_queue.lua")
_PURGE = Script(_OPERATION, *_RATE_LIMITED, "bulk/lua/purge.lua")
_REQUEUE = Script(_OPERATION, *_ON_QUEUE, "bulk/lua/requeue.lua")
_CANCEL = Script(*_ON_QUEUE, "enqueue/lua/dependents.lua", "bulk/lua/cancel.lua")

State = Literal["queued", "failed", "scheduled"]

BATCH = 250
"""Jobs to a call: about 3 ms of Redis's time, in which it serves nobody else."""
IN_FLIGHT = 2
"""Calls that are sent ahead, so that Redis has the next one when it has served the others."""

_PLACES: dict[State, tuple[str, str]] = {
    # Where the jobs of a state are, and the statuses that they have there. RQ keeps stopped jobs with the failed ones.
    "queued": (keys.QUEUE, ",queued,created,"),
    "failed": (keys.FAILED, ",failed,stopped,canceled,"),
    "scheduled": (keys.SCHEDULED, ",scheduled,created,"),
}

Progress = Callable[[int], object]
"""Called after each call with the number of jobs that it took."""


class Requeued(NamedTuple):
    """Numbers of jobs that were requeued, and that had expired since they failed."""

    requeued: int
    expired: int


def count(connection: Redis, queue: str, state: State) -> int:
    """The number of jobs of a queue that are in a state."""
    if state == "queued":
        return int(connection.llen(keys.QUEUE + queue))
    return int(connection.zcard(_PLACES[state][0] + queue))


def empty(connection: Redis, queue: str, progress: Progress | None = None) -> int:
    """Delete the queued jobs of a queue: RQ's `Queue.empty`, in short calls. Jobs enqueued meanwhile stay.

    Returns:
        The number of deleted jobs.
    """
    return purge(connection, queue, "queued", progress)


def purge(connection: Redis, queue: str, state: State, progress: Progress | None = None) -> int:
    """Delete the jobs of a queue that are in a state, and their results; as many as there are when it begins.

    A job that is in use again, for example because it was requeued, is only taken out. Jobs that wait for a deleted one
    go on waiting, as after RQ's `Job.delete`.

    Returns:
        The number of deleted jobs.
    """
    place, statuses = _PLACES[state]

    def arguments() -> Sequence[Any]:
        return [statuses, format_seconds(time.time())]

    deleted, _ = _Operation(connection, _PURGE, place + queue).run(arguments, progress)
    return deleted


def requeue(
    connection: Redis,
    queue: str,
    ids: Iterable[str] | None = None,
    *,
    job_timeout: int = 180,
    progress: Progress | None = None,
) -> Requeued:
    """Requeue failed jobs, the first to expire first: RQ's `FailedJobRegistry.requeue`, in short calls.

    Args:
        queue: The queue whose failed jobs to requeue.
        ids: Ids that are not in the registry are ignored. Default: all that are there when it begins.
        job_timeout: Seconds, for jobs that were stored without a timeout.
        progress: Called after each call.
    """
    began, no_exception = format_seconds(time.time()), zlib.compress(b"")

    def arguments(*batch: str) -> Sequence[Any]:
        return [began, no_exception, job_timeout, *batch]

    if ids is None:
        return Requeued(*_Operation(connection, _REQUEUE, keys.FAILED + queue).run(arguments, progress))
    total = Requeued(0, 0)
    rest = iter(ids)
    while batch := list(islice(rest, BATCH)):
        operation = _Operation(connection, _REQUEUE, keys.FAILED + queue)
        done = operation.run(lambda batch=batch: arguments(*batch), None)  # type: ignore[misc]
        total = Requeued(total.requeued + done[0], total.expired + done[1])
        if progress:
            progress(len(batch))
    return total


def cancel(connection: Redis, job_id: str, enqueue_dependents: bool = False, *, job_timeout: int = 180) -> bool:
    """Cancel a job: RQ's `Job.cancel`, as one script. A job that runs goes on, and its outcome is recorded.

    Safe to repeat: a job that is canceled already stays so.

    Args:
        enqueue_dependents: Enqueue the jobs that wait for this one only, as if it had finished.
        job_timeout: Seconds, for dependents that were stored without a timeout.

    Returns:
        Whether there is such a job.
    """
    arguments = [job_id, int(enqueue_dependents), job_timeout, format_seconds(time.time())]
    return bool(_CANCEL(connection, [keys.JOB + job_id], arguments))


class _Operation:
    """Calls of a script that take jobs from one place until it is empty, or all that were there have been taken.

    A few calls are sent ahead. Each has a number, by which Redis knows one that is sent again (see operation.lua).

    Args:
        place: The key of the queue or registry.
    """

    def __init__(self, connection: Redis, script: Script, place: str) -> None:
        self._connection = connection
        self._script = script
        self._keys = (keys.BULK + uuid.uuid4().hex, place)

    def run(self, arguments: Callable[[], Sequence[Any]], progress: Progress | None) -> tuple[int, int]:
        """Run it.

        Args:
            arguments: Makes the arguments of a call, without the first two.

        Returns:
            The two counts of the script.

        Raises:
            redis.exceptions.RedisError: as redis-py does.
        """
        answered, sent, left, done, other = 0, 0, 1, 0, 0

        def send(connection: Any, name: str, script: str | bytes) -> None:
            call = (name, script, 2, *self._keys, sent, BATCH, *arguments())
            connection.send_packed_command((pack(*call),))

        def attempt(connection: Any, is_again: bool) -> None:
            nonlocal answered, sent, left, done, other
            sent = answered + 1
            # By its text: Redis may not know it, or have restarted.
            send(connection, "EVAL", self._script.source)
            while True:
                while left and sent < answered + IN_FLIGHT:
                    sent += 1
                    send(connection, "EVALSHA", self._script.sha)
                if sent == answered:
                    return
                before = done + other
                left, done, other = connection.read_response()
                answered += 1
                if progress and done + other > before:
                    progress(done + other - before)

        sender = PooledSender(self._connection)
        try:
            sender.send(attempt)
        finally:
            sender.close()
        self._connection.unlink(self._keys[0])
        return done, other
