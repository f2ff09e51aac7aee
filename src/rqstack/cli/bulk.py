"""`rqstack empty`, `purge` and `requeue`: what is done to many jobs at once."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Literal

import click

from rqstack.cli.output import confirm, json_option, plural, print_json, progress, yes_option
from rqstack.errors import RqstackError
from rqstack.transport import keys

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings


class NotFailed(RqstackError):
    """Jobs that cannot be put back, because they have not failed."""


@click.command()
@click.argument("queues", nargs=-1)
@click.option("--all", "-a", "everything", is_flag=True, help="All queues.")
@yes_option
@json_option
def empty(queues: tuple[str, ...], everything: bool, yes: bool, as_json: bool) -> None:
    """Delete the waiting jobs of QUEUES. Running, failed and scheduled jobs stay."""
    settings, connection = _open()
    with connection:
        names = _queues(queues, everything, connection, settings)
        _delete(connection, names, "queued", yes, as_json)


@click.command()
@click.argument("queue")
@click.option("--state", type=click.Choice(["queued", "failed", "scheduled"]), required=True, help="Which of its jobs.")
@yes_option
@json_option
def purge(queue: str, state: Literal["queued", "failed", "scheduled"], yes: bool, as_json: bool) -> None:
    """Delete the jobs of QUEUE that are in a state, with their results."""
    settings, connection = _open()
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
    """Put failed JOBS back on their queues, or all of them."""
    if bool(jobs) == bool(everything or queues):
        raise click.UsageError("Give the ids of jobs, or --queue, or --all.")
    from rqstack.bulk import count
    from rqstack.bulk import requeue as put_back

    settings, connection = _open()
    back = gone = 0
    with connection:
        if jobs:
            wanted = _by_queue(jobs, connection)
            total = len(jobs)
        else:
            names = _queues(queues, not queues, connection, settings)
            wanted = dict.fromkeys(names)
            total = sum(count(connection, name, "failed") for name in names)
            if total:
                confirm(f"Put {plural(total, 'failed job')} of {', '.join(names)} back?", yes)
        with progress("Putting back", total) as report:
            for name, ids in wanted.items():
                done = put_back(connection, name, ids, job_timeout=settings.job_timeout, progress=report)
                back += done.requeued
                gone += done.expired
    if as_json:
        print_json({"requeued": back, "expired": gone})
        return
    click.echo(f"{plural(back, 'job')} put back." + (f" {plural(gone, 'job')} had expired." if gone else ""))


def _open() -> tuple[Settings, Redis]:
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
        click.echo(f"{plural(number, f'{state} job')} deleted from {name}.")


def _by_queue(jobs: tuple[str, ...], connection: Redis) -> dict[str, list[str] | None]:
    """The queue of each job, once all are known to have failed: half of a list is put back never.

    Raises:
        NotFailed: Some are unknown, or have not failed; the message names them.
    """
    with connection.pipeline(transaction=False) as pipe:
        for job in jobs:
            pipe.hmget(keys.JOB + job, "origin", "status")
        records = pipe.execute()
        for job, (origin, _) in zip(jobs, records, strict=True):
            pipe.zscore(keys.FAILED + (origin or b"").decode(), job)
        failed = pipe.execute()
    found: dict[str, list[str] | None] = defaultdict(list)
    wrong = []
    for job, (origin, status), score in zip(jobs, records, failed, strict=True):
        if score is None:
            wrong.append(f"{job} ({status.decode() if status else 'unknown'})")
        else:
            ids = found[origin.decode()]
            assert ids is not None
            ids.append(job)
    if wrong:
        raise NotFailed(f"only failed jobs can be put back, and these are not: {', '.join(wrong)}. None was put back.")
    return found
