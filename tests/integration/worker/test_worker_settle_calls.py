"""Calls of the worker's scripts, without a worker: what is damaged or changed meanwhile, and that a call ends whole."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from redis import Redis
from rq import Queue, RateLimit, Repeat
from rq.job import Job

from rqstack.transport import keys
from rqstack.transport.raw import RawConnection
from rqstack.worker.outcome import Ending, Outcome
from rqstack.worker.scripts import CLAIM, SETTLE
from rqstack.worker.settle import claim_arguments, settle_arguments
from rqstack.worker.supervisor.recovery import Recovery

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

    def claim(self, max_jobs: int = 1, worker: str = "horse") -> list[Claimed]:
        status, *jobs = self.connection.run(CLAIM, self._head(worker, max_jobs))
        assert status in (b"jobs", b"empty"), status
        return [Claimed(*(part.decode() for part in job[:3])) for job in jobs]

    def settle(self, *outcomes: Outcome, put_back: Sequence[Claimed] = (), worker: str = "horse") -> list[str]:
        executions = ",".join(job.execution for job in put_back)
        tail = (*self._head(worker, 1), *settle_arguments(outcomes, claim=False, put_back=executions))
        return [what.decode() for what in self.connection.run(SETTLE, tail)[0]]

    def recovery(self, max_crashes: int, supervisor: str = SUPERVISOR) -> Recovery:
        limits = {"dead_after": 12, "worker_ttl": 400, "max_crashes": max_crashes}
        return Recovery(self.connection, supervisor, hostname="here", queues=["default"], **limits)

    def status(self, job_id: str) -> str:
        return (self.redis.hget(f"rq:job:{job_id}", "status") or b"gone").decode()  # type: ignore[no-any-return]

    def waiting(self) -> list[str]:
        return [job.decode() for job in self.redis.lrange("rq:queue:default", 0, -1)]

    def _head(self, worker: str, max_jobs: int) -> tuple[Any, ...]:
        fixed = (keys.WORKER + worker, keys.running(SUPERVISOR), keys.SUPERVISORS)
        return claim_arguments(fixed, ["rq:queue:default"], (worker, SUPERVISOR), time.time(), max_jobs=max_jobs)


def outcome(job: Claimed, ending: Ending = "finished", **options: Any) -> Outcome:
    now = time.time()
    options = {"result_ttl": 500, "began": now, "ended": now, "ran": 0.1, **options}
    return Outcome(ending, job.job_id, job.execution, job.queue, **options)


@pytest.fixture
def caller(connection: Redis) -> Iterator[Caller]:
    made = Caller(connection)
    yield made
    made.connection.close()


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


# -- damaged records and keys: a script that fails after its first write leaves a job that nobody ends


def damage_type(caller: Caller, *names: str) -> None:
    for name in names:
        caller.redis.delete(name)
        caller.redis.set(name, "damaged")


@pytest.mark.parametrize("ttl", ["10000000000", "1" + "0" * 17, "9" * 30])
@pytest.mark.parametrize("has_dependent", [False, True])
def test_a_result_that_is_kept_for_longer_than_redis_can(caller: Caller, ttl: str, has_dependent: bool) -> None:
    caller.enqueue("job")
    caller.redis.hset("rq:job:job", "result_ttl", ttl)
    if has_dependent:
        caller.enqueue("child", depends_on="job")
    (job,) = caller.claim()
    assert caller.settle(outcome(job, result_ttl=int(ttl))) == ["finished"]
    assert caller.redis.ttl("rq:job:job") == caller.redis.ttl("rq:results:job") == -1
    assert caller.redis.zscore("rq:finished:default", "job") == float("inf")
    assert caller.waiting() == ["child"] * has_dependent


def test_a_retry_whose_failure_ttl_is_damaged(caller: Caller) -> None:
    caller.enqueue("job")
    caller.redis.hset("rq:job:job", "failure_ttl", "1e30")
    (job,) = caller.claim()
    more = {"max": 3, "intervals": [0], "at_front": False}
    assert caller.settle(outcome(job, "retry", more=more)) == ["retried"]
    assert caller.waiting() == ["job"]


@pytest.mark.parametrize("number", ["nan", "-nan", "inf", "1e300"])
def test_a_number_of_retries_that_is_none(caller: Caller, number: str) -> None:
    """It must not be retried for ever."""
    caller.enqueue("job")
    caller.redis.hset("rq:job:job", "retries_left", number)
    (job,) = caller.claim()
    assert caller.settle(outcome(job, "failed", value=b"eA==")) == ["failed"]


@pytest.mark.parametrize(
    "intervals", ["[0, null, 3]", "[0, [1]]", "[0, true]", '[0, {"a": 1}]', "{}", "7", "[", "[[]]"]
)
def test_damaged_intervals_of_a_repeat(caller: Caller, intervals: str) -> None:
    caller.enqueue("job", repeat=Repeat(times=2, interval=[1, 2]))
    caller.redis.hset("rq:job:job", "repeat_intervals", intervals)
    (job,) = caller.claim()
    assert caller.settle(outcome(job)) == ["finished"]
    assert caller.waiting() == ["job"]
    (job,) = caller.claim()
    assert caller.settle(outcome(job)) == ["finished"]


@pytest.mark.parametrize("what", ["finished", "failed"])
def test_keys_of_another_type_do_not_keep_an_outcome_from_being_recorded(caller: Caller, what: Ending) -> None:
    caller.enqueue("first", "second", "third")
    jobs = caller.claim(max_jobs=3)
    damage_type(caller, "rq:results:first", f"rq:{what}:default", "rq:executions:first", "rqstack:metrics")
    damage_type(caller, "rq:worker:horse:executions")
    assert caller.settle(*(outcome(job, what) for job in jobs)) == [what] * 3
    assert [caller.status(job.job_id) for job in jobs] == [what] * 3
    assert caller.redis.zcard(f"rq:{what}:default") == 3
    assert caller.redis.xlen("rq:results:first") == 1


def test_a_dependent_whose_limit_is_damaged_holds_up_no_other(caller: Caller) -> None:
    caller.enqueue("parent")
    caller.enqueue("limited", depends_on="parent", rate_limit=RateLimit("one", 1))
    caller.enqueue("child", depends_on="parent")
    damage_type(caller, "rq:rl:one:allowed")
    (job,) = caller.claim()
    assert caller.settle(outcome(job)) == ["finished"]
    assert sorted(caller.waiting()) == ["child", "limited"]
    assert caller.status("limited") == "queued"


def test_a_job_that_is_no_hash_takes_no_others_along(caller: Caller) -> None:
    """Those that were claimed before it, in the same call, would be in no lease and on no queue."""
    caller.enqueue("first", "damaged", "last")
    damage_type(caller, "rq:job:damaged")
    assert [job.job_id for job in caller.claim(max_jobs=8)] == ["first", "last"]


@pytest.mark.parametrize("name", ["rq:wip:default", "rq:executions:job", "rq:worker:horse:executions"])
def test_a_claim_replaces_keys_of_another_type(caller: Caller, name: str) -> None:
    caller.enqueue("job")
    damage_type(caller, name)
    (job,) = caller.claim()
    assert caller.settle(outcome(job)) == ["finished"]


@pytest.mark.parametrize(
    "job_id", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\x80\xc3\xa4"]
)
def test_an_id_that_is_no_text_is_skipped(caller: Caller, job_id: bytes) -> None:
    """Neither a horse nor its supervisor could read it; both would end, again and again."""
    caller.enqueue("damaged", "last")
    caller.redis.rename("rq:job:damaged", b"rq:job:" + job_id)
    caller.redis.lset("rq:queue:default", 0, job_id)
    assert [job.job_id for job in caller.claim(max_jobs=8)] == ["last"]


@pytest.mark.parametrize("name", ["ä", "€", "\u07ff", "\ud7ff", "\uffff", "\U0001f600", "\U0010ffff", "two\nlines"])
def test_a_queue_s_name_may_be_any_text(caller: Caller, name: str) -> None:
    caller.enqueue("job")
    caller.redis.hset("rq:job:job", "origin", name)
    (job,) = caller.claim()
    assert job.queue == name
    assert caller.settle(outcome(job)) == ["finished"]


# -- putting back


def test_what_another_worker_runs_by_now_is_not_put_back(caller: Caller) -> None:
    """It was enqueued again while it waited in a batch, or ran; once back on its queue it would run beside itself."""
    caller.enqueue("first", "again")
    first, again = caller.claim(max_jobs=8)
    caller.enqueue("again")
    (job,) = caller.claim(worker="other")
    assert caller.settle(outcome(first), put_back=[again]) == ["finished"]
    assert (caller.waiting(), caller.status("again")) == ([], "started")
    assert caller.settle(outcome(job), worker="other") == ["finished"]


def test_what_is_canceled_while_it_waits_in_a_batch_is_not_put_back(caller: Caller) -> None:
    """RQ's own cancel finds no record of its run there."""
    caller.enqueue("first", "canceled")
    first, canceled = caller.claim(max_jobs=8)
    Job.fetch("canceled", connection=caller.redis).cancel()
    assert caller.settle(outcome(first), put_back=[canceled]) == ["finished"]
    assert (caller.waiting(), caller.status("canceled")) == ([], "canceled")
    assert caller.redis.zcard("rq:wip:default") == 0


@pytest.mark.parametrize("is_meant", [False, True])
def test_a_batch_that_had_not_begun_is_put_back_whole(caller: Caller, is_meant: bool) -> None:
    """Its horse was killed before it had the reply to its claim: by a command, or nobody knows why.

    To read one of them may have been too much for it. So that this ends, each runs alone then.
    """
    names = ["one", "two", "three"]
    caller.enqueue(*names)
    jobs = caller.claim(max_jobs=8)
    leases = caller.recovery(max_crashes=1).put_back(["horse"], crashed=True, fail=is_meant)
    assert {(lease.action, lease.job_id) for lease in leases} == {("requeued", name) for name in names}
    assert caller.waiting() == names
    assert not caller.redis.keys("rqstack:crashes:*")
    assert len(caller.claim(max_jobs=8)) == (len(jobs) if is_meant else 1)


def test_the_job_that_ran_alone_is_failed(caller: Caller) -> None:
    caller.enqueue("one")
    (job,) = caller.claim(max_jobs=8)
    (lease,) = caller.recovery(max_crashes=3).put_back(["horse"], crashed=True, fail=True, begun=job.execution)
    assert (lease.action, lease.job_id) == ("abandon", "one")


def test_a_job_that_had_not_begun_is_no_failure_of_it(caller: Caller) -> None:
    caller.enqueue("one")
    (former,) = caller.claim()
    assert caller.settle(outcome(former)) == ["finished"]
    caller.enqueue("two")
    caller.claim()
    recovery = caller.recovery(max_crashes=1)
    (lease,) = recovery.put_back(["horse"], crashed=True, fail=True, begun=former.execution)
    assert (lease.action, lease.job_id) == ("requeued", "two")
    assert caller.waiting() == ["two"]
    assert not caller.redis.keys("rqstack:crashes:*")
    assert recovery.put_back(["horse"], crashed=True, fail=True) == []


def test_a_job_that_ends_each_process_before_it_begins_is_failed(caller: Caller) -> None:
    """Nobody knows why the process died; a payload too large for its memory would end one after the other."""
    caller.enqueue("one")
    actions = []
    for _ in range(3):
        assert len(caller.claim(max_jobs=8)) == 1
        actions += [lease.action for lease in caller.recovery(max_crashes=3).put_back(["horse"], crashed=True)]
    assert actions == ["requeued", "requeued", "abandon"]


def test_a_job_whose_supervisor_dies_before_it_has_failed_it_is_failed_by_the_next(caller: Caller) -> None:
    """Not by each of them: the first that asks."""
    caller.enqueue("one")
    (job,) = caller.claim()
    first, second, third = (caller.recovery(1, name) for name in (SUPERVISOR, "second", "third"))
    for recovery, workers in ((first, ["horse"]), (second, []), (third, [])):
        recovery.heartbeat(workers)
    (lease,) = first.put_back(["horse"], crashed=True, begun=job.execution)
    assert lease.action == "abandon"
    caller.redis.zadd(keys.SUPERVISORS, {SUPERVISOR: 1})
    assert [lease.action for lease in second.take_over(SUPERVISOR)] == ["abandon"]
    assert third.check_dead_again() == []
    assert [lease.action for lease in second.check_dead_again()] == ["abandon"]
    assert caller.settle(outcome(job, "failed")) == ["failed"]
    assert second.check_dead_again() == []


def test_a_record_that_is_no_hash_any_more_counts_as_deleted(caller: Caller) -> None:
    caller.enqueue("one")
    (job,) = caller.claim()
    caller.redis.delete("rq:job:one")
    caller.redis.set("rq:job:one", "damaged")
    assert caller.settle(outcome(job)) == ["deleted"]
    assert caller.redis.zcard("rq:wip:default") == 0


def test_a_canceled_job_is_not_snoozed(caller: Caller) -> None:
    caller.enqueue("one")
    (job,) = caller.claim()
    Job.fetch("one", connection=caller.redis).cancel()
    assert caller.settle(outcome(job, "snoozed", more={"wait": 5.0})) == ["snoozed"]
    assert caller.status("one") == "canceled"
    assert caller.redis.zcard("rq:scheduled:default") == 0
