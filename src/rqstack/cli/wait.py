"""`rqstack wait`: waits until jobs have ended."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from rqstack.cli.output import echo, json_option, plural, print_json, progress
from rqstack.transport import keys
from rqstack.transport.errors import is_wrong_type
from rqstack.transport.replies import decode

if TYPE_CHECKING:
    from redis import Redis

RECHECK_INTERVAL = 1.0
"""Seconds between checks of all jobs, because cancelling or deleting a job adds no result."""
MAX_STREAMS = 200
"""Result streams that one XREAD waits for."""
CHUNK = 1000
INTERRUPTED = 130
GONE = "unknown"


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@click.option("--timeout", "-t", type=click.FloatRange(0), metavar="SECONDS", help="Give up after this time.")
@json_option
def wait(jobs: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait until all JOBS have ended. `-` reads their ids from stdin.

    Exit code: 0 all finished, 1 some failed, 2 some did not end in time, 3 some are unknown.
    """
    from rqstack.cli.outcome import DONE, ENDED, FAILED, FAILURES, NOT_ENDED, UNKNOWN
    from rqstack.settings import get_settings
    from rqstack.transport.client import connect

    ids = list(dict.fromkeys(_ids(jobs)))
    deadline = None if timeout is None else time.monotonic() + timeout
    settings = get_settings()
    # No retries by the client: the loop below retries while Redis is unavailable, and reports it.
    with connect(settings, retries=0) as connection:
        waiter = JobWaiter(connection, ids)
        try:
            with progress("Waiting", len(ids)) as report:
                waiter.run(deadline, report)
        except KeyboardInterrupt:
            left = len(waiter.pending)
            echo(f"Stopped waiting for {plural(left, 'job')}; they keep running.", err=True)
            sys.exit(INTERRUPTED)
        states = waiter.states
        if as_json:
            print_json([{"id": job, "state": states[job]} for job in ids])
        else:
            _print(ids, states, connection)
    if any(states[job] == GONE for job in ids):
        sys.exit(UNKNOWN)
    if any(states[job] in FAILURES for job in ids):
        sys.exit(FAILED)
    sys.exit(DONE if all(states[job] in ENDED for job in ids) else NOT_ENDED)


class JobWaiter:
    """Waits for jobs over one connection, woken by the results that RQ appends to a stream per job.

    Attributes:
        states: The last known state by job id.
        pending: The last entry read from the result stream, by id of each job that has not ended.
    """

    def __init__(self, connection: Redis, ids: list[str]) -> None:
        self.connection = connection
        self.states = dict.fromkeys(ids, "")
        self.pending: dict[str, bytes] = dict.fromkeys(ids, b"0")

    def run(self, deadline: float | None, report: Callable[[int], None]) -> None:
        """Wait until all jobs have ended or the deadline passes.

        Args:
            deadline: On the clock of `time.monotonic`; None for no limit.
            report: Called with the number of jobs that ended.

        Raises:
            RedisError: Redis is unavailable at the start. Later outages are waited out.
        """
        from redis.exceptions import ConnectionError as ConnectionLost
        from redis.exceptions import TimeoutError as TimedOut

        report(self._check(list(self.pending)))
        recheck = time.monotonic() + RECHECK_INTERVAL
        failures = 0
        while self.pending and (deadline is None or time.monotonic() < deadline):
            rest = RECHECK_INTERVAL if deadline is None else min(RECHECK_INTERVAL, deadline - time.monotonic())
            try:
                woken = self._listen(rest)
                if not woken or time.monotonic() >= recheck:
                    woken, recheck = list(self.pending), time.monotonic() + RECHECK_INTERVAL
                report(self._check(woken))
                failures = 0
            except (ConnectionLost, TimedOut) as error:
                if not failures:
                    echo(f"Redis is unavailable ({error}); still waiting.", err=True)
                failures += 1
                time.sleep(min(2.0, 0.1 * 2**failures))

    def _listen(self, seconds: float) -> list[str]:
        """Wait until a job has a new result or the time is over. Returns the ids of jobs with a new result."""
        streams: dict[Any, Any] = {keys.RESULTS + job: last for job, last in islice(self.pending.items(), MAX_STREAMS)}
        if seconds <= 0:
            return []
        found: Any = self.connection.xread(streams, count=1, block=max(1, int(seconds * 1000)))
        # A list of pairs with RESP2, a dictionary with RESP3.
        return [
            decode(key).removeprefix(keys.RESULTS) for key in (found if isinstance(found, dict) else dict(found or []))
        ]

    def _check(self, jobs: list[str]) -> int:
        """Update the state of jobs. Returns how many have ended."""
        from rqstack.cli.outcome import ENDED

        ended = 0
        for chunk in _chunks(jobs):
            with self.connection.pipeline(transaction=False) as pipe:
                for job in chunk:
                    pipe.hget(keys.JOB + job, "status")
                    pipe.xrevrange(keys.RESULTS + job, count=1)
                answers = pipe.execute(raise_on_error=False)
            for job, status, entries in zip(chunk, answers[::2], answers[1::2], strict=True):
                if isinstance(status, Exception):
                    if not is_wrong_type(status):
                        raise status
                    status = None  # a key of another type is not a job
                self.states[job] = decode(status) if status else GONE
                if not status or self.states[job] in ENDED:
                    del self.pending[job]
                    ended += 1
                elif entries and not isinstance(entries, Exception):
                    self.pending[job] = entries[0][0]
        return ended


def _chunks(jobs: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(jobs), CHUNK):
        yield jobs[start : start + CHUNK]


def _ids(jobs: tuple[str, ...]) -> Iterator[str]:
    for job in jobs:
        if job == "-":
            for line in sys.stdin:
                yield from line.split()
        else:
            yield job


def _print(ids: list[str], states: dict[str, str], connection: Redis) -> None:
    """Print each job that did not finish, then one line with the counts."""
    from collections import Counter

    from rqstack.cli.outcome import FAILURES, fetch_outcome
    from rqstack.errors import RqstackError
    from rqstack.settings import get_settings

    for job in ids:
        if states[job] == "finished":
            continue
        reason = ""
        if states[job] in FAILURES:
            with contextlib.suppress(RqstackError):
                reason = fetch_outcome(job, connection, get_settings()).reason
        echo(f"{job} {states[job]}" + (f": {reason}" if reason else ""))
    counted = Counter(states[job] for job in ids)
    echo(f"{plural(len(ids), 'job')}: " + ", ".join(f"{number} {state}" for state, number in counted.most_common()))
