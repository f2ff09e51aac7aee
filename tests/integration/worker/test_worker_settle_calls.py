"""Calls of the worker's scripts, without a worker: what is damaged or changed meanwhile, and that a call ends whole."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from redis import Redis
from rq import Queue, RateLimit
from rq.job import Job

from rqstack.transport import keys
from rqstack.transport.raw import RawConnection
from rqstack.worker.outcome import Outcome, What
from rqstack.worker.scripts import CLAIM, SETTLE
from rqstack.worker.settle import claim_arguments, settle_arguments

SUPERVISOR = "here"


class Claimed(NamedTuple):
    """A job as claim.lua gives it, as far as settle.lua needs it."""

    queue: str
    job_id: str
    execution: str


class Caller:
    """Calls the scripts as the horses of a supervisor do."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis
        self.queue = Queue("default", connection=redis)
        self.connection = RawConnection(redis)
        redis.zadd(keys.SUPERVISORS, {SUPERVISOR: time.time()})

    def enqueue(self, *ids: str, **options: Any) -> None:
        for job_id in ids:
            self.queue.enqueue("shop.tasks.give", job_id=job_id, **options)

    def claim(self, most: int = 1, worker: str = "horse") -> list[Claimed]:
        status, *jobs = self.connection.run(CLAIM, self._head(worker, most))
        assert status in (b"jobs", b"empty"), status
        return [Claimed(*(part.decode() for part in job[:3])) for job in jobs]

    def settle(self, *outcomes: Outcome, put_back: Sequence[Claimed] = (), worker: str = "horse") -> list[str]:
        executions = ",".join(job.execution for job in put_back)
        tail = (*self._head(worker, 1), *settle_arguments(outcomes, claim=False, put_back=executions))
        return [what.decode() for what in self.connection.run(SETTLE, tail)[0]]

    def status(self, job_id: str) -> str:
        return (self.redis.hget(f"rq:job:{job_id}", "status") or b"gone").decode()  # type: ignore[no-any-return]

    def waiting(self) -> list[str]:
        return [job.decode() for job in self.redis.lrange("rq:queue:default", 0, -1)]

    def _head(self, worker: str, most: int) -> tuple[Any, ...]:
        fixed = (keys.WORKER + worker, keys.running(SUPERVISOR), keys.SUPERVISORS)
        return claim_arguments(fixed, ["rq:queue:default"], (worker, SUPERVISOR), time.time(), most=most)


def outcome(job: Claimed, what: What = "finished", **options: Any) -> Outcome:
    now = time.time()
    options = {"result_ttl": 500, "began": now, "ended": now, "ran": 0.1, **options}
    return Outcome(what, job.job_id, job.execution, job.queue, **options)


@pytest.fixture
def caller(connection: Redis) -> Caller:
    return Caller(connection)


# -- enqueued again while it runs


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_limited_job_that_is_enqueued_again_gets_the_slot_of_its_run(caller: Caller, is_deleted: bool) -> None:
    """It waits for the slot that its own run has: nobody else would give it one."""
    one = RateLimit("one", 1)
    caller.enqueue("again", rate_limit=one)
    (job,) = caller.claim()
    if is_deleted:
        Job.fetch("again", connection=caller.redis).delete()
    caller.enqueue("again", rate_limit=one)
    assert caller.status("again") == "rate_limited"
    assert caller.settle(outcome(job, more={"limit": "one"})) == ["fenced" if is_deleted else "superseded"]
    assert (caller.status("again"), caller.waiting()) == ("queued", ["again"])
    (job,) = caller.claim()
    assert caller.settle(outcome(job, more={"limit": "one"})) == ["finished"]
    assert caller.redis.zcard("rq:rl:one:allowed") == caller.redis.zcard("rq:rl:one:rate_limited") == 0
