"""`rqstack empty`, `purge` and `requeue`: bulk operations on jobs."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import click

from rqstack.cli.output import confirm, echo, json_option, plural, print_json, progress, yes_option
from rqstack.errors import RqstackError
from rqstack.transport import keys
from rqstack.transport.replies import decode

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings


class NotFailed(RqstackError):
    """Jobs cannot be requeued because they have not failed."""


@click.command()
@click.argument("queues", nargs=-1)
@click.option("--all", "-a", "everything", is_flag=True, help="All queues.")
@yes_option
@json_option
def empty(queues: tuple[str, ...], everything: bool, yes: bool, as_json: bool) -> None:
    """Delete the queued jobs of QUEUES. Running, failed and scheduled jobs stay."""
    settings, connection = _connect()
    with connection:
        names = _queues(queues, everything, connection, settings)
        _delete(connection, names, "queued", yes, as_json)


@click.command()
@click.argument("queue")
@click.option(
    "--state", type=click.Choice(["queued", "failed", "scheduled"]), required=True, help="State of the jobs to delete."
)
@yes_option
@json_option
def purge(queue: str, state: Literal["queued", "failed", "scheduled"], yes: bool, as_json: bool) -> None:
    """Delete the jobs of QUEUE that are in a state, and their results."""
    settings, connection = _connect()
    with connection:
        names = _queues((queue,), False, connection, settings)
        _delete(connection, names, state, yes, as_json)


@click.command()
@click.argument("jobs", nargs=-1)
@click.option("--all", "-a", "everything", is_flag=True, help="All failed jobs, or those of --queue.")
@click.option("--queue", "-q", "queues", multiple=True, help="The failed jobs of this queue; may be repeated.")
@yes_option
@json_option
def requeue(jobs: tuple[str, ...], everything: bool, queues: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Requeue failed JOBS, or all failed jobs."""
    if bool(jobs) == bool(everything or queues):
        raise click.UsageError("Give the ids of jobs, or --queue, or --all.")
    from rqstack.bulk import count
    from rqstack.bulk import requeue as requeue_jobs

    settings, connection = _connect()
    requeued = expired = 0
    with connection:
        if jobs:
            wanted = _by_queue(jobs, connection)
            total = len(jobs)
        else:
            names = _queues(queues, not queues, connection, settings)
            wanted = dict.fromkeys(names)
            total = sum(count(connection, name, "failed") for name in names)
            if total:
                confirm(f"Requeue {plural(total, 'failed job')} of {', '.join(names)}?", yes)
        with progress("Requeuing", total) as report:
            for name, ids in wanted.items():
                done = requeue_jobs(connection, name, ids, job_timeout=settings.job_timeout, progress=report)
                requeued += done.requeued
                expired += done.expired
    if as_json:
        print_json({"requeued": requeued, "expired": expired})
        return
    echo(f"{plural(requeued, 'job')} requeued." + (f" {plural(expired, 'job')} had expired." if expired else ""))


def _connect() -> tuple[Settings, Redis]:
    from rqstack.settings import get_settings
    from rqstack.transport.client import connect

    settings = get_settings()
    return settings, connect(settings)


def _queues(names: tuple[str, ...], everything: bool, connection: Redis, settings: Settings) -> list[str]:
    from rqstack.cli.queues import check_queues, known_queues

    if bool(names) == everything:
        raise click.UsageError("Give the names of queues, or --all.")
    if everything:
        return known_queues(connection, settings)
    check_queues(names, connection, settings)
    return list(dict.fromkeys(names))


def _delete(
    connection: Redis, names: list[str], state: Literal["queued", "failed", "scheduled"], yes: bool, as_json: bool
) -> None:
    from rqstack.bulk import count
    from rqstack.bulk import purge as delete

    counts = {name: count(connection, name, state) for name in names}
    total = sum(counts.values())
    if total:
        confirm(f"Delete {plural(total, f'{state} job')} of {', '.join(n for n in names if counts[n])}?", yes)
    deleted = {}
    with progress("Deleting", total) as report:
        for name in names:
            deleted[name] = delete(connection, name, state, report)
    if as_json:
        print_json({"state": state, "deleted": deleted})
        return
    for name, number in deleted.items():
        echo(f"{plural(number, f'{state} job')} deleted from {name}.")


def _by_queue(jobs: tuple[str, ...], connection: Redis) -> dict[str, list[str] | None]:
    """Group failed jobs by queue. All or nothing: if one has not failed, none is requeued.

    Raises:
        NotFailed: Some jobs are unknown or have not failed. The message lists them.
    """
    with connection.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hmget(keys.JOB + job, "origin", "status")
        records = pipe.execute()
        for job, (origin, _) in zip(jobs, records, strict=True):
            pipe.zscore(keys.FAILED + decode(origin), job)
        failed = pipe.execute()
    by_queue: dict[str, list[str] | None] = defaultdict(list)
    not_failed = []
    for job, (origin, status), score in zip(jobs, records, failed, strict=True):
        if score is None:
            not_failed.append(f"{job} ({decode(status) or 'unknown'})")
        else:
            ids = by_queue[decode(origin)]
            assert ids is not None
            ids.append(job)
    if not_failed:
        raise NotFailed(f"only failed jobs can be requeued, unlike: {', '.join(not_failed)}. None was requeued.")
    return by_queue
