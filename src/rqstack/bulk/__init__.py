"""Bulk operations on jobs, in batches that do not block Redis: empty, purge, requeue.

RQ's `empty` is one script over the whole queue, which blocks Redis for seconds at 300,000 jobs; its `requeue` takes
three round trips per job. Here each batch is one atomic script, so a crash never leaves a job half removed.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rqstack.transport import keys
from rqstack.transport.scripts import Script
from rqstack.transport.timestamps import format_seconds

if TYPE_CHECKING:
    from redis import Redis

_EMPTY = Script("bulk/lua/empty.lua")
_PURGE = Script("bulk/lua/purge.lua")
_REQUEUE = Script("enqueue/lua/rate_limited.lua", "enqueue/lua/put_on_queue.lua", "bulk/lua/requeue.lua")

State = Literal["queued", "failed", "scheduled"]

BATCH = 500
"""Jobs per script call: about 2 ms of Redis's time, and below Lua's limit of 8,000 values."""
REGISTRIES: dict[str, tuple[str, str]] = {
    # state -> key prefix of the registry, and the statuses of its jobs (RQ keeps stopped jobs with the failed ones)
    "failed": (keys.FAILED, ",failed,stopped,canceled,"),
    "scheduled": (keys.SCHEDULED, ",scheduled,"),
}

Progress = Callable[[int], object]
"""Called after each batch with its number of jobs."""


class Requeued(NamedTuple):
    """Numbers of jobs that were requeued, and that had expired since they failed."""

    requeued: int
    expired: int


def count(connection: Redis, queue: str, state: State) -> int:
    """The number of jobs of a queue that are in a state."""
    if state == "queued":
        return int(connection.llen(keys.QUEUE + queue))
    return int(connection.zcard(REGISTRIES[state][0] + queue))


def empty(connection: Redis, queue: str, progress: Progress | None = None) -> int:
    """Delete the queued jobs of a queue: RQ's `Queue.empty`, in batches. Jobs enqueued meanwhile stay.

    Returns:
        The number of deleted jobs.
    """
    left = count(connection, queue, "queued")
    removed = 0
    while left > 0:
        done = int(_EMPTY(connection, [keys.QUEUE + queue], [min(left, BATCH)]))
        if not done:
            break
        removed += done
        left -= done
        if progress:
            progress(done)
    return removed


def purge(connection: Redis, queue: str, state: State, progress: Progress | None = None) -> int:
    """Delete the jobs of a queue that are in a state, and their results.

    Returns:
        The number of deleted jobs.
    """
    if state == "queued":
        return empty(connection, queue, progress)
    prefix, states = REGISTRIES[state]
    removed = 0
    for ids in _batches(connection, prefix + queue):
        removed += int(_PURGE(connection, [prefix + queue], [states, *ids]))
        if progress:
            progress(len(ids))
    return removed


def requeue(
    connection: Redis,
    queue: str,
    ids: Iterable[str] | None = None,
    *,
    job_timeout: int = 180,
    progress: Progress | None = None,
) -> Requeued:
    """Requeue failed jobs, the first to expire first: RQ's `FailedJobRegistry.requeue`, in batches.

    Args:
        queue: The queue whose failed jobs to requeue.
        ids: Ids that are not in the registry are ignored. Default: all failed jobs of the queue.
        job_timeout: Seconds, for jobs that were stored without a timeout.
        progress: Called after each batch.
    """
    key = REGISTRIES["failed"][0] + queue
    batches: Iterator[list[Any]] = _batches(connection, key) if ids is None else _chunks(ids)
    requeued = expired = 0
    for batch in batches:
        now = time.time()
        arguments = [format_seconds(now), zlib.compress(b""), job_timeout, int(now), *batch]
        done = _REQUEUE(connection, [key], arguments)
        requeued += int(done[0])
        expired += int(done[1])
        if progress:
            progress(len(batch))
    return Requeued(requeued, expired)


def _batches(connection: Redis, key: str) -> Iterator[list[Any]]:
    """Batches from the head of a sorted set, up to its initial size. The caller must remove each batch."""
    left = int(connection.zcard(key))
    while left > 0:
        ids: list[Any] = connection.zrange(key, 0, min(left, BATCH) - 1)
        if not ids:
            return
        left -= len(ids)
        yield ids


def _chunks(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while batch := list(islice(rest, BATCH)):
        yield batch
