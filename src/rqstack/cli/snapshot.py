"""Reads the state of all queues and workers: three round trips, and more where jobs wait for a rate limit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rqstack.cli.readiness import heartbeat_time
from rqstack.transport import keys
from rqstack.transport.damaged import name_of
from rqstack.transport.errors import is_wrong_type
from rqstack.transport.replies import decode

if TYPE_CHECKING:
    from redis import Redis

_BATCH = 5000
"""Rate-limited jobs that are looked up in one round trip."""

WORKER_FIELDS = ("queues", "state", "hostname", "pid", "last_heartbeat", "death")


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue: its jobs by state, its number of workers, and the waiting time of its first job.

    Args:
        ready: Jobs whose dependencies have ended and that are about to be enqueued.
        rate_limited: Jobs that wait for a slot of one of RQ's rate limits.
    """

    name: str
    queued: int
    started: int
    failed: int
    scheduled: int
    deferred: int
    ready: int
    rate_limited: int
    finished: int
    workers: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, from its record in Redis."""

    name: str
    hostname: str
    pid: str
    state: str
    queues: tuple[str, ...]
    current_job: str
    heartbeat_seconds: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that `rqstack info` shows.

    Args:
        queues: Sorted by name.
        workers: Sorted by name, without dead workers.
        suspended: Whether workers are suspended.
        suspended_seconds: Seconds left; None if there is no limit, or if they are not suspended.
    """

    queues: tuple[QueueInfo, ...]
    workers: tuple[WorkerInfo, ...]
    suspended: bool
    suspended_seconds: float | None

    @property
    def states(self) -> Counter[str]:
        """The number of workers by state."""
        return Counter(worker.state for worker in self.workers)

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON output."""
        return asdict(self) | {"worker_states": dict(self.states)}


def take_snapshot(connection: Redis, more: tuple[str, ...] = ()) -> Snapshot:
    """Read the state of all queues and workers.

    Args:
        more: Queues to include although they may not exist in Redis yet.
    """
    with connection.pipeline(transaction=False) as pipe:
        pipe.smembers(keys.QUEUES)
        pipe.smembers(keys.WORKERS)
        pipe.pttl(keys.SUSPENDED)
        pipe.smembers(keys.LIMIT_NAMES)
        queue_keys, worker_keys, suspended, limits = _execute(pipe, [(), (), -2, ()])
        names = sorted({name.removeprefix(keys.QUEUE) for name in _names(queue_keys)} | set(more))
        records = _names(worker_keys)
        limits = _names(limits)
        now = time.time()
        for name in names:
            pipe.llen(keys.QUEUE + name)
            pipe.lindex(keys.QUEUE + name, 0)
            for registry in keys.REGISTRIES.values():
                pipe.zcard(registry + name)
                # RQ's registries keep expired jobs until they are cleaned up, so those are counted separately.
                pipe.zcount(registry + name, 0, f"({now}")
        for key in records:
            pipe.hmget(key, *WORKER_FIELDS)
            pipe.smembers(key + keys.WORKER_EXECUTIONS)
        for limit in limits:
            pipe.zcard(keys.limit_waiting(limit))
        queue_row = [0, None, *(0 for _ in keys.REGISTRIES for _ in range(2))]
        worker_row = [[None] * len(WORKER_FIELDS), ()]
        rows = _execute(pipe, queue_row * len(names) + worker_row * len(records) + [0] * len(limits))
        waiting = {limit: count for limit, count in zip(limits, rows[len(rows) - len(limits) :], strict=True) if count}
        rows = rows[: len(rows) - len(limits)]
        width = 2 + 2 * len(keys.REGISTRIES)
        cells = [rows[i * width : (i + 1) * width] for i in range(len(names))]
        for row in cells:
            pipe.hget(keys.JOB + decode(row[1]), "enqueued_at")
        first = _execute(pipe, [None] * len(cells)) if cells else []
    workers = _workers(records, rows[len(names) * width :], now)
    rate_limited = _count_rate_limited(connection, waiting)
    listening = Counter(queue for worker in workers for queue in worker.queues)
    queues = [
        _queue(name, row, listening[name], rate_limited[name], decode(enqueued), now)
        for name, row, enqueued in zip(names, cells, first, strict=True)
    ]
    left = suspended / 1000 if suspended > 0 else None
    return Snapshot(tuple(queues), tuple(workers), suspended != -2, left)


def _execute(pipe: Any, empty: Sequence[Any]) -> list[Any]:
    """The replies of a pipeline. A key of the wrong type counts as a missing one.

    Args:
        empty: What each command returns for a missing key.
    """
    replies = pipe.execute(raise_on_error=False)
    for place, reply in enumerate(replies):
        if isinstance(reply, Exception):
            if not is_wrong_type(reply):
                raise reply
            replies[place] = empty[place]
    return list(replies)


def _names(raw: Iterable[bytes]) -> list[str]:
    """The names that are names, sorted."""
    return sorted(name for each in raw if (name := name_of(each)))


def _count_rate_limited(connection: Redis, waiting: Mapping[str, int]) -> Counter[str]:
    """The number of jobs that wait for a rate limit, by queue: the jobs of all queues wait for a limit together."""
    counts: Counter[str] = Counter()
    for limit, number in waiting.items():
        for first in range(0, number, _BATCH):
            with connection.pipeline(transaction=False) as pipe:
                waiting_ids: list[Any] = connection.zrange(keys.limit_waiting(limit), first, first + _BATCH - 1)
                for job_id in waiting_ids:
                    pipe.hget(keys.JOB + decode(job_id), "origin")
                origins = _execute(pipe, [None] * len(waiting_ids))
                counts.update(decode(origin) for origin in origins if origin)
    return counts


def _queue(name: str, row: list[Any], workers: int, rate_limited: int, enqueued: str, now: float) -> QueueInfo:
    counts = dict(zip(keys.REGISTRIES, zip(row[2::2], row[3::2], strict=True), strict=True))
    # Scores of these two registries are expiry times; those of the others are not.
    unexpired = {
        state: total - expired for state, (total, expired) in counts.items() if state in ("failed", "finished")
    }
    sizes = {state: total for state, (total, _) in counts.items()} | unexpired
    enqueued_at = heartbeat_time(enqueued)
    return QueueInfo(
        name,
        queued=row[0],
        started=sizes["started"],
        failed=sizes["failed"],
        scheduled=sizes["scheduled"],
        deferred=sizes["deferred"],
        ready=sizes["ready"],
        rate_limited=rate_limited,
        finished=sizes["finished"],
        workers=workers,
        oldest_seconds=max(0.0, now - enqueued_at) if row[0] and enqueued_at else None,
    )


def _workers(records: list[str], rows: list[Any], now: float) -> list[WorkerInfo]:
    workers = []
    for key, row, executions in zip(records, rows[::2], rows[1::2], strict=True):
        record = dict(zip(WORKER_FIELDS, map(decode, row), strict=True))
        if not record["queues"] or record["death"]:
            continue
        heartbeat = heartbeat_time(record["last_heartbeat"])
        workers.append(
            WorkerInfo(
                key.removeprefix(keys.WORKER),
                record["hostname"],
                record["pid"],
                record["state"] or "unknown",
                tuple(record["queues"].split(",")),
                ", ".join(sorted(decode(run).rpartition(":")[0] for run in executions)),
                max(0.0, now - heartbeat) if heartbeat else None,
            )
        )
    return workers
