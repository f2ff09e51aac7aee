"""Accounts for every job of a fault run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from redis import Redis

from support.account import left
from support.settled import Ended, problems, read_ends

_WORDS = re.compile(r"[\w-]+")

OPEN = ("queued", "started", "scheduled", "ready_to_enqueue", "rate_limited")
"""The statuses of a job that has not ended."""

SHOWN = 20
"""Lines of details that are kept for each kind."""


@dataclass
class Row:
    """A line of the table.

    Args:
        kind: The kind of fault.
        jobs: Jobs that were enqueued.
        faults: Faults that were injected.
        lost: Jobs that never ran, or whose outcome is not on record, or is another one.
        twice: Jobs with more results than outcomes.
        stuck: Jobs that have not ended; and what is left of others in a registry.
        again: Jobs that ran more often than their outcome asks for: this is allowed, as a killed job runs again.
        seconds: How long it took.
        gap: Losses and doubles are documented for this kind, so they are no failure.
        details: What is wrong.
    """

    kind: str
    jobs: int = 0
    faults: int = 0
    lost: int = 0
    twice: int = 0
    stuck: int = 0
    again: int = 0
    seconds: float = 0.0
    gap: bool = False
    details: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every job has ended once."""
        return self.gap or not (self.lost or self.twice or self.stuck)


def account(
    row: Row, client: Redis, expected: Mapping[str, Ended], runs: Mapping[str, int], begun: Mapping[str, int]
) -> None:
    """Count what was lost, recorded twice, or is stuck: each job once, the first that applies.

    Args:
        row: Gets the figures.
        client: Of Redis; all processes have ended.
        expected: How each job must have ended.
        runs: How often each must have run at least.
        begun: How often each has.
    """
    named = set()
    for job, (status, results) in read_ends(client, list(expected)).items():
        end, ran = expected[job], begun.get(job, 0)
        if status in OPEN or (status == "deferred" and end.status != "deferred"):
            row.stuck += 1
        elif status != end.status or len(results) < len(end.results) or ran < runs[job]:
            row.lost += 1
        elif results != list(end.results):
            row.twice += 1
        else:
            row.again += ran > runs[job]
            continue
        named.add(job)
        row.details.append(f"{job} is {status} with {results}, ran {ran} times; expected: {_text(end)}")
    leftovers = [line for line in problems(client, expected) if not named.intersection(_WORDS.findall(line))]
    leftovers += [f"{key} is left" for key in left(client)]
    row.stuck += len(leftovers)
    row.details += leftovers
    del row.details[SHOWN:]


def _text(end: Ended) -> str:
    return f"{end.status} with {list(end.results)}"
