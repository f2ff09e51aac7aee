"""What is done to many jobs at once, in batches that leave Redis free for others: empty, purge, requeue.

RQ's own `empty` is one script over the whole queue, which stops Redis for seconds at 300,000 jobs; its `requeue`
takes 300,000 times three round trips. Each batch here is one script, so that a crash leaves no job half removed.
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
_REQUEUE = Script("bulk/lua/requeue.lua")

State = Literal["queued", "failed", "scheduled"]

BATCH = 500
"""Jobs a script call: 2 ms of Redis's time, and below Lua's limit of 8,000 values."""
REGISTRIES: dict[str, tuple[str, str]] = {
    # state -> the registry's key, and the states in which its jobs may be (RQ keeps stopped jobs with the failed)
    "failed": (keys.FAILED, ",failed,stopped,canceled,"),
    "scheduled": (keys.SCHEDULED, ",scheduled,"),
}

Report = Callable[[int], object]
"""Is told after each batch how many entries were done."""


class Requeued(NamedTuple):
    """How many jobs were put back on their queues, and how many had expired since they failed."""

    back: int
    gone: int


def count(connection: Redis, queue: str, state: State) -> int:
    """How many jobs of a queue are in a state."""
    if state == "queued":
        return int(connection.llen(keys.QUEUE + queue))
    return int(connection.zcard(REGISTRIES[state][0] + queue))


def empty(connection: Redis, queue: str, report: Report | None = None) -> int:
    """Delete the waiting jobs of a queue, as many as there are when it begins. RQ's `Queue.empty`, in batches.

    Args:
        connection: Redis.
        queue: Its name.
        report: Is told how many were done.

    Returns:
        How many were deleted.
    """
    left = count(connection, queue, "queued")
    removed = 0
    while left > 0:
        done = int(_EMPTY(connection, [keys.QUEUE + queue], [min(left, BATCH)]))
        if not done:
            break
        removed += done
        left -= done
        if report:
            report(done)
    return removed


def purge(connection: Redis, queue: str, state: State, report: Report | None = None) -> int:
    """Delete the jobs of a queue that are in a state, with their results.

    Args:
        connection: Redis.
        queue: Its name.
        state: `queued`, `failed` or `scheduled`.
        report: Is told how many were done.

    Returns:
        How many were deleted.
    """
    if state == "queued":
        return empty(connection, queue, report)
    prefix, states = REGISTRIES[state]
    removed = 0
    for ids in _batches(connection, prefix + queue):
        removed += int(_PURGE(connection, [prefix + queue], [states, *ids]))
        if report:
            report(len(ids))
    return removed


def requeue(
    connection: Redis,
    queue: str,
    ids: Iterable[str] | None = None,
    *,
    job_timeout: int = 180,
    report: Report | None = None,
) -> Requeued:
    """Put failed jobs back on their queues, the first to expire first. RQ's `registry.requeue`, in batches.

    Args:
        connection: Redis.
        queue: The queue whose registry of failed jobs is meant.
        ids: Which; one that is not in the registry is passed over. Default: all that are there when it begins.
        job_timeout: Seconds a job may run, where its record does not say.
        report: Is told how many were done.

    Returns:
        How many were put back, and how many had expired.
    """
    key = REGISTRIES["failed"][0] + queue
    batches: Iterator[list[Any]] = _batches(connection, key) if ids is None else _in_batches(ids)
    back = gone = 0
    for batch in batches:
        now = format_seconds(time.time())
        done = _REQUEUE(connection, [key], [now, zlib.compress(b""), job_timeout, *batch])
        back += int(done[0])
        gone += int(done[1])
        if report:
            report(len(batch))
    return Requeued(back, gone)


def _batches(connection: Redis, key: str) -> Iterator[list[Any]]:
    """The members of a sorted set, which whoever takes them removes; no more than there are at the beginning."""
    left = int(connection.zcard(key))
    while left > 0:
        ids: list[Any] = connection.zrange(key, 0, min(left, BATCH) - 1)
        if not ids:
            return
        left -= len(ids)
        yield ids


def _in_batches(ids: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while batch := list(islice(rest, BATCH)):
        yield batch
