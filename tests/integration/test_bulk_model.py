"""Random moves of jobs between their places, over a network that loses replies, against a model of where they are."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, RateLimit
from rq.job import Job

from rqstack import bulk
from rqstack.scheduling.delayed import DelayedJobs
from support.proxy import LossyProxy
from support.quick_worker import QuickWorker

LOSSES = st.integers(0, 2)
PICK = st.integers(0, 99)
LIMIT = RateLimit("few", 2)
GONE, WAITING = "gone", "waiting"
PLACES = {
    # status -> the registry that holds a job of it
    "failed": "failed",
    "scheduled": "scheduled",
    "deferred": "deferred",
    "ready_to_enqueue": "ready",
    "canceled": "canceled",
}


def fails() -> None:
    raise ValueError("as it should")


class Runner(QuickWorker):
    """It leaves to the scheduler what a dead worker has left."""

    def run_maintenance_tasks(self) -> None:
        pass


class Moves(RuleBasedStateMachine):
    """Purge, requeue, cancel and the scheduler's moves. A job is in one place, the one that the model says.

    `model` has the state of each job; a limited job that is queued or waits for a slot is `waiting` in both cases.
    """

    connection: Redis
    proxy: LossyProxy

    def __init__(self) -> None:
        super().__init__()
        self.connection.flushall()
        self.client = Redis(port=self.proxy.port, retry=Retry(NoBackoff(), 3))
        self.queue = Queue("q", connection=self.connection)
        self.delayed = DelayedJobs(self.client)
        self.model: dict[str, str] = {}
        self.limited: set[str] = set()
        self.parents: dict[str, str] = {}
        self.on_loss = [b"EVAL"]

    def teardown(self) -> None:
        self.proxy.lose_after = []
        self.client.close()

    def lose(self, count: int) -> None:
        self.proxy.lose_after = [b"EVAL"] * count

    def pick(self, number: int, *states: str) -> str | None:
        found = [name for name, state in self.model.items() if state in states]
        return found[number % len(found)] if found else None

    def children(self, name: str) -> list[str]:
        return [child for child, parent in self.parents.items() if parent == name and self.model[child] == "deferred"]

    def new(self, limited: bool) -> tuple[str, RateLimit | None]:
        name = f"job-{len(self.model):03}"
        if limited:
            self.limited.add(name)
        return name, LIMIT if limited else None

    # -- what producers and workers do

    @rule(limited=st.booleans())
    def enqueue(self, limited: bool) -> None:
        name, limit = self.new(limited)
        self.queue.enqueue(fails, job_id=name, rate_limit=limit)
        self.model[name] = WAITING

    @rule(limited=st.booleans(), is_due=st.booleans())
    def schedule(self, limited: bool, is_due: bool) -> None:
        name, limit = self.new(limited)
        due = datetime.fromtimestamp(time.time() + (-10 if is_due else 1000), UTC)
        self.queue.enqueue_at(due, fails, job_id=name, rate_limit=limit)
        self.model[name] = "scheduled" if is_due else "later"

    @rule(number=PICK, limited=st.booleans())
    def depend(self, number: int, limited: bool) -> None:
        parent = self.pick(number, WAITING, "failed", "scheduled")
        if parent is not None:
            name, limit = self.new(limited)
            job = self.queue.enqueue(fails, job_id=name, rate_limit=limit, depends_on=parent)
            assert job.get_status() == "deferred"
            self.model[name], self.parents[name] = "deferred", parent

    @rule(number=PICK)
    def die_before_enqueueing(self, number: int) -> None:
        """A worker of RQ has marked a job as ready, and died."""
        name = self.pick(number, "deferred")
        if name is not None:
            job = Job.fetch(name, connection=self.connection)
            with self.connection.pipeline() as pipe:
                self.queue.ready_job_registry.register_jobs([job], pipe)
                pipe.execute()
            self.connection.srem(f"rq:job:{self.parents[name]}:dependents", name)
            self.model[name] = "ready_to_enqueue"

    @rule(number=PICK)
    def leave_scheduled(self, number: int) -> None:
        """A worker of RQ 2 was killed while it scheduled a retry, and the job has gone on."""
        name = self.pick(number, WAITING, "failed", "canceled")
        if name is not None:
            self.connection.zadd("rq:scheduled:q", {name: 1})

    @rule(number=PICK)
    def leave_failed(self, number: int) -> None:
        """Likewise, among the failed. One that was canceled then may still be requeued, as in RQ."""
        name = self.pick(number, WAITING)
        if name is not None:
            self.connection.zadd("rq:failed:q", {name: time.time() + 1000})

    @rule(count=st.integers(1, 3))
    def work(self, count: int) -> None:
        before = self.queued()
        Runner([self.queue], connection=self.connection).work(burst=True, max_jobs=count, logging_level="CRITICAL")
        for name in self.model:
            if self.model[name] == WAITING and self.status(name) == "failed":
                self.model[name] = "failed"
        assert len([name for name in before[:count] if self.model[name] == "failed"]) == min(count, len(before))

    def listed(self, registry: str, *states: str) -> list[str]:
        """The jobs of a registry that are in a state."""
        found = self.connection.zrange(f"rq:{registry}:q", 0, -1)
        return [name for raw in found if self.model[name := raw.decode()] in states]

    # -- the operations

    @rule(losses=LOSSES)
    def move_due(self, losses: int) -> None:
        self.lose(losses)
        self.delayed.move_due(time.time(), ["q"])
        self.become(WAITING, "scheduled")

    @rule(losses=LOSSES)
    def move_ready(self, losses: int) -> None:
        self.lose(losses)
        self.delayed.move_ready(time.time(), ["q"])
        self.become(WAITING, "ready_to_enqueue")

    @rule(losses=LOSSES)
    def requeue_all(self, losses: int) -> None:
        wanted, gone = self.listed("failed", "failed", "canceled"), self.listed("failed", GONE)
        self.lose(losses)
        assert bulk.requeue(self.client, "q") == (len(wanted), len(gone))
        self.model.update(dict.fromkeys(wanted, WAITING))

    @rule(losses=LOSSES, numbers=st.lists(PICK, min_size=1, max_size=4))
    def requeue_some(self, losses: int, numbers: list[int]) -> None:
        names = [name for number in numbers if (name := self.pick(number, "failed", WAITING, GONE)) is not None]
        if names:
            wanted = set(names) & set(self.listed("failed", "failed", "canceled"))
            gone = set(names) & set(self.listed("failed", GONE))
            self.lose(losses)
            assert bulk.requeue(self.client, "q", names) == (len(wanted), len(gone))
            self.model.update(dict.fromkeys(wanted, WAITING))

    @rule(losses=LOSSES)
    def purge_failed(self, losses: int) -> None:
        wanted = self.listed("failed", "failed", "canceled", GONE)
        self.lose(losses)
        assert bulk.purge(self.client, "q", "failed") == len(wanted)
        self.model.update(dict.fromkeys(wanted, GONE))

    @rule(losses=LOSSES)
    def purge_scheduled(self, losses: int) -> None:
        wanted = self.listed("scheduled", "scheduled", "later", GONE)
        self.lose(losses)
        assert bulk.purge(self.client, "q", "scheduled") == len(wanted)
        self.model.update(dict.fromkeys(wanted, GONE))

    @rule(losses=LOSSES)
    def empty(self, losses: int) -> None:
        names = self.queued()
        self.lose(losses)
        assert bulk.empty(self.client, "q") == len(names)
        self.model.update(dict.fromkeys(names, GONE))

    @rule(losses=LOSSES, number=PICK, enqueue_dependents=st.booleans())
    def cancel(self, losses: int, number: int, enqueue_dependents: bool) -> None:
        name = self.pick(number, *(set(self.model.values()) | {GONE}))
        if name is not None:
            children = self.children(name)
            self.lose(losses)
            assert bulk.cancel(self.client, name, enqueue_dependents) == (self.model[name] != GONE)
            if self.model[name] != GONE:
                self.model[name] = "canceled"
                if enqueue_dependents:
                    self.model.update(dict.fromkeys(children, WAITING))

    def become(self, state: str, *states: str) -> None:
        for name, known in self.model.items():
            if known in states:
                self.model[name] = state

    # -- what has to be so at any time

    def queued(self) -> list[str]:
        return [raw.decode() for raw in self.connection.lrange("rq:queue:q", 0, -1)]

    def status(self, name: str) -> str:
        return (self.connection.hget(f"rq:job:{name}", "status") or GONE.encode()).decode()

    @invariant()
    def each_job_is_where_the_model_says(self) -> None:
        queue, places = Counter(self.queued()), {}
        for status, registry in PLACES.items():
            places[status] = {raw.decode() for raw in self.connection.zrange(f"rq:{registry}:q", 0, -1)}
        slots = {raw.decode() for raw in self.connection.zrange("rq:rl:few:allowed", 0, -1)}
        waiting = {raw.decode() for raw in self.connection.zrange("rq:rl:few:rate_limited", 0, -1)}
        assert set(queue) | slots | waiting <= {name for name, state in self.model.items() if state == WAITING}
        for name, state in self.model.items():
            status = self.status(name)
            if state == WAITING:
                has_slot = name in slots
                assert has_slot + (name in waiting) == (name in self.limited)
                assert status == ("rate_limited" if name in waiting else "queued"), name
                assert queue[name] == (status == "queued"), name
            else:
                assert status == {"later": "scheduled"}.get(state, state), name
                assert status == GONE or name in places[status], name
            assert state == "canceled" or name not in places["canceled"]
            if state == GONE:
                keys = set(self.connection.scan_iter(f"*{name}*", count=1000))
                assert keys <= {f"rq:job::{name}:dependencies".encode(), f"rq:job:{name}:dependents".encode()}
        assert len(slots) <= 2
        assert len(slots) == 2 or not waiting, "a free slot is given away at once"
        assert self.connection.keys("rqstack:bulk:*") == []


@pytest.mark.parametrize("calls", [1, 2])
def test_each_job_is_in_one_place(
    connection: Redis, proxy: LossyProxy, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(bulk, "IN_FLIGHT", 1)  # the proxy takes one command at a time
    monkeypatch.setattr(bulk, "BATCH", calls)
    Moves.connection, Moves.proxy = connection, proxy
    run_state_machine_as_test(
        Moves,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
