"""`rqstack info`: shows queues and workers, once or continuously."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from rqstack.cli.output import duration, echo, json_option, plural, print_json, show, table

if TYPE_CHECKING:
    from rqstack.cli.snapshot import Snapshot


@click.command()
@click.argument("queues", nargs=-1)
@click.option("--by-queue", "-R", is_flag=True, help="List the workers of each queue.")
@click.option("--watch", "-w", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--interval",
    "-i",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Seconds between refreshes, with --watch.",
)
@json_option
def info(queues: tuple[str, ...], by_queue: bool, watch: bool, interval: float, as_json: bool) -> None:
    """Show QUEUES (default: all) and workers.

    `oldest` is the waiting time of the first job of a queue; `ready` jobs are about to be enqueued, as their
    dependencies have ended; `rate limited` ones wait for a slot of their RateLimit. --watch --json prints one document
    per line.
    """
    from rqstack.cli.queues import check_queues
    from rqstack.cli.snapshot import take_snapshot
    from rqstack.settings import get_settings
    from rqstack.transport.client import connect

    settings = get_settings()
    with connect(settings) as connection:
        check_queues(queues, connection, settings)
        configured = tuple(queues) or (*settings.queues, *settings.long_queues)

        def read() -> Snapshot:
            return _only(take_snapshot(connection, configured), queues)

        if not watch:
            if as_json:
                print_json(read().as_dict())
            else:
                show(*_parts(read(), by_queue))
        elif as_json:
            _stream(read, interval)
        else:
            _watch(read, interval, by_queue)


def _only(snapshot: Snapshot, queues: tuple[str, ...]) -> Snapshot:
    from dataclasses import replace

    if not queues:
        return snapshot
    workers = tuple(worker for worker in snapshot.workers if set(worker.queues) & set(queues))
    return replace(snapshot, queues=tuple(q for q in snapshot.queues if q.name in queues), workers=workers)


def _parts(snapshot: Snapshot, by_queue: bool) -> list[Any]:
    """The tables and lines to print, in order."""
    columns = ["queue", "queued", "started", "failed", "scheduled", "deferred", "ready", "rate limited", "finished"]
    columns += ["workers", "oldest"]
    rows = [
        [
            q.name,
            q.queued,
            q.started,
            q.failed,
            q.scheduled,
            q.deferred,
            q.ready,
            q.rate_limited,
            q.finished,
            q.workers,
            duration(q.oldest_seconds),
        ]
        for q in snapshot.queues
    ]
    parts: list[Any] = [table("", columns, rows)]
    if by_queue:
        listening = [
            [q.name, ", ".join(sorted(f"{w.name} ({w.state})" for w in snapshot.workers if q.name in w.queues)) or "-"]
            for q in snapshot.queues
        ]
        parts.append(table("", ["queue", "workers"], listening))
    elif snapshot.workers:
        listed = [
            [w.name, w.hostname, w.pid, w.state, ", ".join(w.queues), duration(w.heartbeat_seconds), w.current_job]
            for w in snapshot.workers
        ]
        parts.append(table("", ["worker", "host", "pid", "state", "queues", "heartbeat", "job"], listed))
    states = ", ".join(f"{number} {state}" for state, number in sorted(snapshot.states.items()))
    waiting = sum(queue.queued for queue in snapshot.queues)
    parts.append(
        f"{plural(len(snapshot.queues), 'queue')}, {plural(waiting, 'job')} waiting, "
        f"{plural(len(snapshot.workers), 'worker')}{f' ({states})' if states else ''}"
    )
    if snapshot.suspended:
        left = f" for {duration(snapshot.suspended_seconds)}" if snapshot.suspended_seconds else ""
        parts.append(f"Suspended{left}: workers start no jobs. `rqstack resume` ends it.")
    return parts


def _stream(read: Any, interval: float) -> None:
    import json

    while True:
        echo(json.dumps(read().as_dict()))
        time.sleep(interval)


def _watch(read: Any, interval: float, by_queue: bool) -> None:
    from redis.exceptions import ConnectionError as ConnectionLost
    from redis.exceptions import TimeoutError as TimedOut
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            try:
                parts = _parts(read(), by_queue)
            except (ConnectionLost, TimedOut) as error:
                parts = [f"Redis is unavailable ({error}); trying again."]
            live.update(Group(*(Text(part) if isinstance(part, str) else part for part in parts)), refresh=True)
            time.sleep(interval)
