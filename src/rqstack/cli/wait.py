"""`rqstack wait`: until jobs have ended."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from rqstack.cli.output import json_option, plural, print_json, progress
from rqstack.cli.snapshot import as_text
from rqstack.transport import keys

if TYPE_CHECKING:
    from redis import Redis

RECHECK = 1.0
"""Seconds after which all jobs are asked for their state: a job that is cancelled or deleted announces nothing."""
WATCHED = 200
"""Jobs whose streams of results are read at once."""
CHUNK = 1000
INTERRUPTED = 130
GONE = "unknown"


@click.command()
@click.argument("jobs", nargs=-1, required=True)
@click.option("--timeout", "-t", type=click.FloatRange(0), metavar="SECONDS", help="Give up after this time.")
@json_option
def wait(jobs: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait until all JOBS have ended. `-` reads their ids from stdin.

    Exit code: 0 all finished, 1 some failed, 2 some have not ended in time, 3 some are not known.
    """
    from rqstack.cli.outcome import DONE, ENDED, FAILED, FAILURES, NOT_YET, UNKNOWN
    from rqstack.settings import get_settings
    from rqstack.transport.client import connect

    ids = list(dict.fromkeys(_ids(jobs)))
    deadline = None if timeout is None else time.monotonic() + timeout
    settings = get_settings()
    # No retries of its own: while Redis is away the loop below keeps trying, and says so.
    with connect(settings, retries=0) as connection:
        waiting = Waiting(connection, ids)
        try:
            with progress("Waiting", len(ids)) as report:
                waiting.run(deadline, report)
        except KeyboardInterrupt:
            left = len(waiting.pending)
            click.echo(f"Stopped waiting for {plural(left, 'job')}; they go on.", err=True)
            sys.exit(INTERRUPTED)
        states = waiting.states
        if as_json:
            print_json([{"id": job, "state": states[job]} for job in ids])
        else:
            _print(ids, states, connection)
    if any(states[job] == GONE for job in ids):
        sys.exit(UNKNOWN)
    if any(states[job] in FAILURES for job in ids):
        sys.exit(FAILED)
    sys.exit(DONE if all(states[job] in ENDED for job in ids) else NOT_YET)


class Waiting:
    """Jobs that are waited for, over one connection: woken by their results, which RQ appends to a stream a job.

    Args:
        connection: Redis.
        ids: Of the jobs.

    Attributes:
        states: The last known state of each.
        pending: Those that have not ended, with the last entry that was seen in each one's stream.
    """

    def __init__(self, connection: Redis, ids: list[str]) -> None:
        self.connection = connection
        self.states = dict.fromkeys(ids, "")
        self.pending: dict[str, bytes] = dict.fromkeys(ids, b"0")

    def run(self, deadline: float | None, report: Callable[[int], None]) -> None:
        """Wait.

        Args:
            deadline: When to give up, of `time.monotonic`; None for never.
            report: Is told how many ended.

        Raises:
            RedisError: Redis is not there when it begins. Once there, it is waited for.
        """
        from redis.exceptions import ConnectionError as Lost
        from redis.exceptions import TimeoutError as Late

        report(self._check(list(self.pending)))
        recheck = time.monotonic() + RECHECK
        away = 0
        while self.pending and (deadline is None or time.monotonic() < deadline):
            rest = RECHECK if deadline is None else min(RECHECK, deadline - time.monotonic())
            try:
                woken = self._listen(rest)
                if not woken or time.monotonic() >= recheck:
                    woken, recheck = list(self.pending), time.monotonic() + RECHECK
                report(self._check(woken))
                away = 0
            except (Lost, Late) as error:
                if not away:
                    click.echo(f"Redis is away ({error}); still waiting.", err=True)
                away += 1
                time.sleep(min(2.0, 0.1 * 2**away))

    def _listen(self, seconds: float) -> list[str]:
        """Until one of the jobs has a new result, or the time is over. Returns those that have."""
        streams: dict[Any, Any] = {keys.RESULTS + job: last for job, last in islice(self.pending.items(), WATCHED)}
        if seconds <= 0:
            return []
        found: Any = self.connection.xread(streams, count=1, block=max(1, int(seconds * 1000)))
        # Redis 7 and RESP2 answer a list of pairs, RESP3 a dictionary.
        return [
            as_text(key).removeprefix(keys.RESULTS) for key in (found if isinstance(found, dict) else dict(found or []))
        ]

    def _check(self, jobs: list[str]) -> int:
        """Ask for the state of jobs. Returns how many have ended since."""
        from rqstack.cli.outcome import ENDED

        ended = 0
        for chunk in _chunks(jobs):
            with self.connection.pipeline(transaction=False) as pipe:
                for job in chunk:
                    pipe.hget(keys.JOB + job, "status")
                    pipe.xrevrange(keys.RESULTS + job, count=1)
                answers = pipe.execute()
            for job, status, entries in zip(chunk, answers[::2], answers[1::2], strict=True):
                self.states[job] = status.decode() if status else GONE
                if status is None or self.states[job] in ENDED:
                    del self.pending[job]
                    ended += 1
                elif entries:
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
    """Each job that did not finish, then one line that counts them all."""
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
        click.echo(f"{job} {states[job]}" + (f": {reason}" if reason else ""))
    counted = Counter(states[job] for job in ids)
    click.echo(
        f"{plural(len(ids), 'job')}: " + ", ".join(f"{number} {state}" for state, number in counted.most_common())
    )
