"""What is in Redis now: queues, workers, states. Three round trips, however many queues and workers there are."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rqstack.cli.health import heartbeat_time
from rqstack.transport import keys

if TYPE_CHECKING:
    from redis import Redis

WORKER_FIELDS = ("queues", "state", "hostname", "pid", "last_heartbeat", "current_job", "death")


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue: how many of its jobs are in which state, how many workers listen, and for how long its first waits."""

    name: str
    queued: int
    started: int
    failed: int
    scheduled: int
    deferred: int
    finished: int
    workers: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, as its own record says."""

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
        queues: By name.
        workers: By name; those whose record has expired are dead and not listed.
        suspended: Whether workers are told to start nothing.
        suspended_seconds: For how much longer; None for no end, or if they are not.
    """

    queues: tuple[QueueInfo, ...]
    workers: tuple[WorkerInfo, ...]
    suspended: bool
    suspended_seconds: float | None

    @property
    def states(self) -> Counter[str]:
        """How many workers are in which state."""
        return Counter(worker.state for worker in self.workers)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"worker_states": dict(self.states)}


def as_text(value: Any) -> str:
    """The text of what Redis answered; "" for None."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def take_snapshot(connection: Redis, more: tuple[str, ...] = ()) -> Snapshot:
    """Look at all queues and workers.

    Args:
        connection: Redis.
        more: Queues to show though Redis has no record of them yet.
    """
    with connection.pipeline(transaction=False) as pipe:
        pipe.smembers(keys.QUEUES)
        pipe.smembers(keys.WORKERS)
        pipe.pttl(keys.SUSPENDED)
        queue_keys, worker_keys, suspended = pipe.execute()
        names = sorted({as_text(key).removeprefix(keys.QUEUE) for key in queue_keys} | set(more))
        records = sorted(map(as_text, worker_keys))
        now = time.time()
        for name in names:
            pipe.llen(keys.QUEUE + name)
            pipe.lindex(keys.QUEUE + name, 0)
            for registry in keys.REGISTRIES.values():
                pipe.zcard(registry + name)
                # What has expired stays in RQ's registries until somebody cleans them.
                pipe.zcount(registry + name, 0, f"({now}")
        for key in records:
            pipe.hmget(key, *WORKER_FIELDS)
        rows = pipe.execute()
        width = 2 + 2 * len(keys.REGISTRIES)
        cells = [rows[i * width : (i + 1) * width] for i in range(len(names))]
        for row in cells:
            pipe.hget(keys.JOB + as_text(row[1]), "enqueued_at")
        first = pipe.execute() if cells else []
    workers = _workers(records, rows[len(names) * width :], now)
    listening = Counter(queue for worker in workers for queue in worker.queues)
    queues = [
        _queue(name, row, listening[name], as_text(enqueued), now)
        for name, row, enqueued in zip(names, cells, first, strict=True)
    ]
    left = suspended / 1000 if suspended > 0 else None
    return Snapshot(tuple(queues), tuple(workers), suspended != -2, left)


def _queue(name: str, row: list[Any], workers: int, enqueued: str, now: float) -> QueueInfo:
    counts = dict(zip(keys.REGISTRIES, zip(row[2::2], row[3::2], strict=True), strict=True))
    kept = {state: total - expired for state, (total, expired) in counts.items() if state in ("failed", "finished")}
    there = {state: total for state, (total, _) in counts.items()} | kept
    since = heartbeat_time(enqueued)
    return QueueInfo(
        name,
        queued=row[0],
        started=there["started"],
        failed=there["failed"],
        scheduled=there["scheduled"],
        deferred=there["deferred"],
        finished=there["finished"],
        workers=workers,
        oldest_seconds=max(0.0, now - since) if row[0] and since else None,
    )


def _workers(records: list[str], rows: list[Any], now: float) -> list[WorkerInfo]:
    found = []
    for key, row in zip(records, rows, strict=True):
        record = dict(zip(WORKER_FIELDS, map(as_text, row), strict=True))
        if not record["queues"] or record["death"]:
            continue
        beat = heartbeat_time(record["last_heartbeat"])
        found.append(
            WorkerInfo(
                key.removeprefix(keys.WORKER),
                record["hostname"],
                record["pid"],
                record["state"] or "unknown",
                tuple(record["queues"].split(",")),
                record["current_job"],
                max(0.0, now - beat) if beat else None,
            )
        )
    return found
