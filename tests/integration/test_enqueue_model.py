"""Random producers over a network that loses replies, with workers in between: a model of what may be where."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import rq
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.job import Job
from rq.utils import str_to_date

from rqstack import task
from rqstack.enqueue import get_queue
from rqstack.errors import InvalidJob
from rqstack.settings import get_settings
from support.proxy import LossyProxy
from support.quick_worker import QuickWorker
from support.redis_server import RedisServer

RUNS: Counter[str] = Counter()
ENDED = ("finished", "failed", "stopped", "canceled")
NAMES = st.sampled_from("abcd")
LOSSES = st.integers(0, 3)


@task
def act(outcome: str) -> None:
    job = rq.get_current_job()
    assert job is not None
    RUNS[job.id] += 1
    if outcome == "fails":
        raise ValueError


class Producers(RuleBasedStateMachine):
    """Each call of a producer enqueues one job, or gives the one that is there, however many replies are lost.

    `expected` counts the calls that have enqueued a job of an id; a job whose retries are none runs once for each.
    """

    connection: Redis
    proxy: LossyProxy

    def __init__(self) -> None:
        super().__init__()
        self.connection.flushall()
        RUNS.clear()
        self.client = Redis(port=self.proxy.port, retry=Retry(NoBackoff(), 3))
        self.expected: Counter[str] = Counter()
        self.ids: list[str] = []

    def teardown(self) -> None:
        self.proxy.lose_after = []
        self.client.close()
        self.work(None)
        self.all_ran_or_wait()

    def status(self, job_id: str) -> str | None:
        found = self.connection.hget(f"rq:job:{job_id}", "status")
        return found.decode() if found else None

    def work(self, most: int | None) -> None:
        queue = get_queue("default", connection=self.connection)
        worker = QuickWorker([queue], connection=self.connection, serializer=queue.serializer)
        worker.work(burst=True, max_jobs=most)

    @rule(
        name=NAMES,
        losses=LOSSES,
        runs_meanwhile=st.booleans(),
        outcome=st.sampled_from(["finishes", "fails"]),
        limited=st.booleans(),
        dependency=st.none() | st.integers(0, 99),
    )
    def unique(
        self, name: str, losses: int, runs_meanwhile: bool, outcome: str, limited: bool, dependency: int | None
    ) -> None:
        """A unique job: enqueued if none of the id waits or runs; it may end between two tries of the call."""
        options: dict[str, Any] = {"unique": True, "job_id": name, "concurrency": 1 if limited else None}
        if dependency is not None and self.ids:
            options["depends_on"] = self.ids[dependency % len(self.ids)]
        state, before = self.status(name), self.connection.hget(f"rq:job:{name}", "created_at")
        job = self.enqueue(losses, runs_meanwhile, outcome, options)
        if job is None:
            return
        is_new = before is None or job.created_at != str_to_date(before)
        assert is_new or state not in (None, *ENDED)
        assert not is_new or state in (None, *ENDED) or runs_meanwhile
        if is_new:
            self.expected[name] += 1
            self.ids.append(name)

    @rule(
        losses=LOSSES,
        runs_meanwhile=st.booleans(),
        limited=st.booleans(),
        dependencies=st.lists(st.integers(0, 99), max_size=3),
        at_front=st.booleans(),
    )
    def other(self, losses: int, runs_meanwhile: bool, limited: bool, dependencies: list[int], at_front: bool) -> None:
        """A job with an id of its own."""
        options: dict[str, Any] = {"at_front": at_front, "concurrency": 2 if limited else None}
        if self.ids:
            options["depends_on"] = [self.ids[each % len(self.ids)] for each in dependencies] or None
        job = self.enqueue(losses, runs_meanwhile, "finishes", options)
        assert job is not None
        self.expected[job.id] += 1
        self.ids.append(job.id)

    @rule(losses=LOSSES, dependency=st.none() | st.integers(0, 99), number=st.integers(1, 4), limited=st.booleans())
    def many(self, losses: int, dependency: int | None, number: int, limited: bool) -> None:
        """A bulk of jobs with dependencies, a limit, or both."""
        options: dict[str, Any] = {"concurrency": 2 if limited else None, "connection": self.client}
        if dependency is not None and self.ids:
            options["depends_on"] = self.ids[dependency % len(self.ids)]
        if options.get("depends_on") or limited:
            self.proxy.lose_after = [b"EVAL"] * losses
        for job in act.enqueue_many([("finishes",)] * number, **options):
            self.expected[job.id] += 1
            self.ids.append(job.id)
        assert self.proxy.lose_after == []

    def enqueue(self, losses: int, runs_meanwhile: bool, outcome: str, options: dict[str, Any]) -> Job | None:
        self.proxy.lose_after = [b"EVAL"] * losses
        self.proxy.when_lost = (lambda: self.work(None)) if runs_meanwhile else (lambda: None)
        try:
            job = act.enqueue([outcome], connection=self.client, **options)
        except InvalidJob:  # a cycle
            assert options.get("depends_on")
            return None
        finally:
            self.proxy.lose_after = []
            self.proxy.when_lost = lambda: None
        assert job.id == options.get("job_id", job.id)
        return job

    @rule()
    def run_one(self) -> None:
        self.work(1)

    @invariant()
    def every_job_is_where_its_status_says(self) -> None:
        def members(key: str) -> list[str]:
            return [identifier.decode() for identifier in self.connection.zrange(key, 0, -1)]

        queued = [identifier.decode() for identifier in self.connection.lrange("rq:queue:default", 0, -1)]
        places = {
            "queued": queued,
            "deferred": members("rq:deferred:default"),
            "rate_limited": members(f"rq:rl:{act.name}:rate_limited"),
            "finished": members("rq:finished:default"),
            "failed": members("rq:failed:default"),
        }
        for state, found in places.items():
            assert sorted(found) == sorted({each for each in self.ids if self.status(each) == state}), state
        slots = members(f"rq:rl:{act.name}:allowed")
        assert set(slots) <= set(queued)
        for name in places["deferred"]:
            for dependency in Job.fetch(name, self.connection, get_queue("default").serializer)._dependency_ids:
                state = self.status(dependency)
                waits = self.connection.sismember(f"rq:job:{dependency}:dependents", name)
                assert waits or state == "finished", (name, dependency, state)

    @invariant()
    def nothing_ran_twice(self) -> None:
        assert not RUNS - self.expected

    def all_ran_or_wait(self) -> None:
        """Only what waits for a failed job, for ever, has not run as often as it was enqueued."""
        for name, count in self.expected.items():
            assert RUNS[name] == count or self.status(name) == "deferred", name


@pytest.fixture
def faulty(redis_server: RedisServer, redis_url: str, connection: Redis, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "the key of the tests")
    get_settings.cache_clear()
    proxy = LossyProxy(redis_server.port)
    yield type("Faulty", (Producers,), {"connection": connection, "proxy": proxy})
    proxy.close()


def test_producers_and_lost_replies(faulty: type[Producers]) -> None:
    run_state_machine_as_test(
        faulty,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
