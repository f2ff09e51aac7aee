"""The jobs of a fault run: units of one to three jobs, each with the end that it must have."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from faulty import outcomes
from redis import Redis
from rq import Repeat
from rq.group import Group
from rq.job import Dependency
from rq.rate_limit import RateLimit

from rqstack.enqueue import get_queue
from support.settled import DEFERRED, FAILED, FINISHED, Ended

QUEUE = "default"
REPEATED = Ended("finished", ("success", "success"))
RETRIED = Ended("finished", ("retried", "success"))


@dataclass
class Producer:
    """Enqueues jobs of every kind, and keeps how each must end.

    Args:
        client: Redis, with no fault in between.
        draw: Random numbers.
    """

    client: Redis
    draw: random.Random
    expected: dict[str, Ended] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    """The least number of runs of each job."""

    def __post_init__(self) -> None:
        self._units = self._cycle()
        self._number = itertools.count()

    def enqueue(self, number: int) -> None:
        """Enqueue a few jobs; as many as asked for, or the rest of a unit more."""
        wanted = len(self.expected) + number
        while len(self.expected) < wanted:
            next(self._units)()

    def add_fatal(self) -> None:
        """A job that ends its process each time, with a dependent that allows that."""
        parent = self._add(outcomes.die, FAILED, retries=0)
        self._add(outcomes.finish, depends_on=Dependency([parent], allow_failure=True))

    def _cycle(self) -> Iterator[Callable[[], object]]:
        """All kinds in random order, again and again; half of the units are plain jobs."""
        kinds: list[Callable[[], object]] = [
            self._failing,
            self._retried_now,
            self._retried_later,
            self._asking,
            self._success_callback,
            self._failure_callback,
            self._parent,
            self._failing_parent,
            self._two_parents,
            self._group,
            self._rate_limited,
            self._repeated_now,
            self._repeated_later,
        ]
        kinds += [self._plain] * len(kinds)
        while True:
            self.draw.shuffle(kinds)
            yield from kinds

    def _id(self, end: Ended, runs: int) -> str:
        job_id = f"job-{next(self._number)}"
        self.expected[job_id] = end
        self.runs[job_id] = runs
        return job_id

    def _add(self, task: Any, end: Ended = FINISHED, *, runs: int | None = None, **options: Any) -> str:
        least = int(end is not DEFERRED) if runs is None else runs
        args = (self.draw.uniform(0, 0.004),) if task is outcomes.finish else ()
        given = {"timeout": 60, "result_ttl": 86_400} | options
        job = task.enqueue(args, job_id=self._id(end, least), connection=self.client, **given)
        return str(job.id)

    # -- the kinds

    def _plain(self) -> None:
        self._add(outcomes.finish)

    def _failing(self) -> None:
        self._add(outcomes.fail, FAILED)

    def _retried_now(self) -> None:
        self._add(outcomes.fail_at_first, runs=2, retries=1)

    def _retried_later(self) -> None:
        self._add(outcomes.fail_at_first, runs=2, retries=1, backoff=1)

    def _asking(self) -> None:
        self._add(outcomes.ask_for_retry, RETRIED, runs=2)

    def _success_callback(self) -> None:
        self._add(outcomes.finish, on_success=outcomes.succeeded)

    def _failure_callback(self) -> None:
        self._add(outcomes.fail, FAILED, on_failure=outcomes.failed)

    def _parent(self) -> None:
        parent = self._add(outcomes.finish)
        self._add(outcomes.finish, depends_on=parent)

    def _failing_parent(self) -> None:
        parent = self._add(outcomes.fail, FAILED)
        self._add(outcomes.finish, depends_on=Dependency([parent], allow_failure=True))
        self._add(outcomes.finish, DEFERRED, depends_on=parent)

    def _two_parents(self) -> None:
        parents = [self._add(outcomes.finish), self._add(outcomes.fail_at_first, runs=2, retries=1)]
        self._add(outcomes.finish, depends_on=Dependency(parents))

    def _repeated_now(self) -> None:
        self._add(outcomes.finish, REPEATED, runs=2, repeat=Repeat(times=1))

    def _repeated_later(self) -> None:
        self._add(outcomes.finish, REPEATED, runs=2, repeat=Repeat(times=1, interval=1))

    def _rate_limited(self) -> None:
        limit = RateLimit(f"limit-{self.draw.randrange(4)}", 2)
        get_queue(QUEUE, connection=self.client).enqueue(
            outcomes.finish.name, job_id=self._id(FINISHED, 1), rate_limit=limit, job_timeout=60, result_ttl=86_400
        )

    def _group(self) -> None:
        queue = get_queue(QUEUE, connection=self.client)
        data = [
            queue.prepare_data(outcomes.finish.name, job_id=self._id(FINISHED, 1), timeout=60, result_ttl=86_400)
            for _ in range(2)
        ]
        Group.create(self.client).enqueue_many(queue, data)
