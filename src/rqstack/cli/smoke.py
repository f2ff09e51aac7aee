"""`rqstack smoke`: runs test jobs through the queues to check that a stack works."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from rqstack.cli.output import echo, json_option, plural, print_json, progress, show, table
from rqstack.transport import keys
from rqstack.transport.replies import decode

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

POLL_INTERVAL = 0.1
CHUNK = 500
ENDED_STATUSES = ("finished", "failed", "stopped", "canceled")
SUCCEEDED, WRONG_RESULT, GONE, NOT_ENDED = "succeeded", "wrong result", "gone", "not ended"


@click.command()
@click.option("--jobs", "-n", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="Jobs to run.")
@click.option(
    "--rate", "-r", default="50", show_default=True, help="Jobs per second, or a rate such as 100/minute; 0: no limit."
)
@click.option("--queue", "-q", "queues", multiple=True, help="May be repeated. Default: short-running, long-running.")
@click.option(
    "--timeout",
    "-t",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="Seconds to wait for the next job to end.",
)
@json_option
def smoke(jobs: int, rate: str, queues: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Run test jobs through the queues, rate limited over all workers, and count the results.

    Exit code: 0 all succeeded, 1 some failed, 2 some did not end.
    """
    from rqstack.settings import get_settings
    from rqstack.smoke import QUEUES
    from rqstack.transport.client import connect

    limit = _limit(rate)
    names = tuple(dict.fromkeys(queues)) or QUEUES
    started = time.monotonic()
    with connect(get_settings()) as connection, progress("Smoke", jobs) as report:
        counts = _run_jobs(connection, jobs, names, limit, timeout, report)
    _print(counts, time.monotonic() - started, as_json)
    totals = sum(counts.values(), Counter[str]())
    sys.exit(1 if totals.keys() - {SUCCEEDED, NOT_ENDED} else 2 if totals[NOT_ENDED] else 0)


def _limit(text: str) -> str | None:
    from rqstack.registry.rate import parse

    if text == "0":
        return None
    try:
        return str(parse(f"{text}/second" if text.isdecimal() else text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rate") from None


def _run_jobs(
    connection: Redis,
    jobs: int,
    queues: tuple[str, ...],
    rate: str | None,
    timeout: float,
    report: Callable[[int], None],
) -> dict[str, Counter[str]]:
    """Enqueue the jobs and wait for them. Returns the number of jobs by queue and outcome."""
    from rqstack.smoke import check

    counts: dict[str, Counter[str]] = {name: Counter() for name in queues}
    waiting: dict[str, Job] = {}
    for start in range(0, jobs, CHUNK):
        numbers = range(start, min(start + CHUNK, jobs))
        for index, name in enumerate(queues):
            calls = [check.call(number, rate) for number in numbers if number % len(queues) == index]
            enqueued = check.enqueue_many(calls, queue=name, connection=connection)
            waiting.update((job.id, job) for job in enqueued)
    last = time.monotonic()
    while waiting and time.monotonic() - last < timeout:
        ended = _ended(connection, waiting)
        for job_id, state in ended.items():
            counts[waiting.pop(job_id).origin][state] += 1
        if ended:
            report(len(ended))
            last = time.monotonic()
        if waiting:
            time.sleep(POLL_INTERVAL)
    for job in waiting.values():
        counts[job.origin][NOT_ENDED] += 1
    return counts


def _ended(connection: Redis, waiting: Mapping[str, Job]) -> dict[str, str]:
    """The outcomes of the jobs that have ended, by id."""
    outcomes = {}
    ids = list(waiting)
    for start in range(0, len(ids), CHUNK):
        chunk = ids[start : start + CHUNK]
        with connection.pipeline(transaction=False) as pipe:
            for job_id in chunk:
                pipe.hget(waiting[job_id].key, "status")
                pipe.xrevrange(keys.RESULTS + job_id, count=1)
            answers: list[Any] = pipe.execute()
        for job_id, status, entries in zip(chunk, answers[::2], answers[1::2], strict=True):
            state = decode(status) if status else GONE
            if state not in (*ENDED_STATUSES, GONE):
                continue
            if state == "finished":
                job = waiting[job_id]
                result = _result(job, entries[0]) if entries else None
                is_correct = result is not None and result.return_value == 2 * job.args[0]
                state = SUCCEEDED if is_correct else WRONG_RESULT
            outcomes[job_id] = state
    return outcomes


def _result(job: Job, entry: tuple[bytes, dict[Any, Any]]) -> Any:
    from rq.results import Result

    from rqstack.security import for_purpose

    return Result.restore(job.id, entry[0].decode(), entry[1], job.connection, for_purpose(job.serializer, "result"))


def _print(counts: dict[str, Counter[str]], seconds: float, as_json: bool) -> None:
    totals = sum(counts.values(), Counter[str]())
    number = totals.total()
    if as_json:
        print_json({"jobs": number, "seconds": round(seconds, 3), "total": totals, "queues": counts})
        return
    states = [SUCCEEDED, "failed", *sorted(totals.keys() - {SUCCEEDED, "failed"})]
    rows = [[name, *(count[state] for state in states)] for name, count in counts.items()]
    show(table("", ("Queue", *(state.capitalize() for state in states)), rows))
    failed = number - totals[SUCCEEDED] - totals[NOT_ENDED]
    echo(
        f"{plural(number, 'job')} in {seconds:.1f} s: {totals[SUCCEEDED]} succeeded, {failed} failed, "
        f"{totals[NOT_ENDED]} not ended."
    )
    if totals[NOT_ENDED]:
        echo("Does a worker listen to each queue, and does a scheduler run? See `rqstack info`.", err=True)
