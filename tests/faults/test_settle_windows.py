"""The windows between two steps of a job's end, each hit exactly: what was once lost, doubled or stuck there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from rq import Queue, Retry
from rq.job import Callback, Dependency

from support.fault_proxy import Moment
from support.fleet import Fleet
from support.settled import FAILED, FINISHED, Ended, assert_settled, problems
from support.workbench import SETTINGS, Workbench

pytestmark = pytest.mark.timeout(400)

FINISH, FAIL, DIE = "faulty.outcomes.finish", "faulty.outcomes.fail", "faulty.outcomes.die"
ON_SUCCESS = Callback("faulty.outcomes.succeeded")
LATE = 15.0
"""Seconds after which a job that has not ended is stuck."""


@pytest.fixture
def prefix(bench: Workbench) -> Iterator[str]:
    """An idle worker; what the ids of the test's jobs begin with. A worker that a test has harmed is thrown away."""
    bench.open()
    bench.start_worker()
    yield bench.prefix()
    bench.proxy.disarm()
    if problems(bench.redis, {}):
        bench.close()


def enqueue(bench: Workbench, job_id: str, task: str = FINISH, **options: object) -> str:
    """Enqueue a job by RQ itself."""
    bench.queue().enqueue(task, job_id=job_id, job_timeout=60, result_ttl=900, **options)
    return job_id


def check(bench: Workbench, expected: dict[str, Ended], drive: Callable[[], object] = lambda: None) -> None:
    """Wait until all jobs have ended as expected, and see that nothing follows."""

    def drive_all() -> None:
        drive()
        if bench.fleet.running[0].poll() is not None:
            bench.start_worker()

    assert bench.until_settled([expected], drive_all, LATE) == []
    bench.start_worker()
    bench.pass_barrier()
    assert_settled(bench.redis, expected)
    bench.forget()


def has_status(bench: Workbench, job_id: str, status: bytes) -> Callable[[], bool]:
    """Whether a job has a status on record."""
    return lambda: bool(bench.redis.hget(f"rq:job:{job_id}", "status") == status)


# -- a connection is lost after the claim


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_connection_lost_after_the_claim_is_no_failure_of_the_task(
    bench: Workbench, prefix: str, number: int
) -> None:
    """The job ran, or will run: it must not be recorded as failed."""
    bench.proxy.arm(prefix, (Moment.REQUEST, number), bench.proxy.be_away)
    parent = enqueue(bench, f"{prefix}parent", on_success=ON_SUCCESS)
    child = enqueue(bench, f"{prefix}child", depends_on=parent)
    check(bench, {parent: FINISHED, child: FINISHED})
    assert bench.journal(prefix)["begin", parent] == 1


# -- a process dies between two records


@pytest.mark.parametrize("fault", ["horse", "worker"])
@pytest.mark.parametrize("task", [FAIL, DIE])
def test_dependents_move_though_the_process_dies_once_the_failure_is_on_record(
    bench: Workbench, prefix: str, tmp_path: Path, task: str, fault: str
) -> None:
    parent = f"{prefix}parent"
    kill = bench.kill_sender if fault == "horse" else bench.kill_worker
    bench.proxy.arm(prefix, (Moment.REPLY, has_status(bench, parent, b"failed")), kill)
    # The horse is busy until the parent has its dependent.
    gate, flag = "gate", tmp_path / "flag"
    enqueue(bench, gate, "faulty.outcomes.hold", args=(str(flag),))
    enqueue(bench, parent, task)
    child = enqueue(bench, f"{prefix}child", depends_on=Dependency([parent], allow_failure=True))
    flag.touch()
    check(bench, {gate: FINISHED, parent: FAILED, child: FINISHED})
    assert bench.proxy.fired


def test_a_retry_is_not_queued_as_well_when_the_horse_dies_once_it_is_scheduled(bench: Workbench, prefix: str) -> None:
    job = f"{prefix}job"

    def is_scheduled() -> bool:
        return bench.redis.zscore("rq:scheduled:default", job) is not None

    bench.proxy.arm(prefix, (Moment.REPLY, is_scheduled), bench.kill_sender)
    enqueue(bench, job, "faulty.outcomes.fail_at_first", retry=Retry(max=1, interval=60))
    bench.fleet.until(lambda: bench.proxy.fired, 20)
    # The horse that follows it has nothing to do: the job is delayed, and nowhere else.
    bench.start_worker()
    bench.pass_barrier()
    assert bench.redis.zscore("rq:scheduled:default", job) is not None
    assert bench.redis.hget(f"rq:job:{job}", "status") == b"scheduled"
    assert bench.journal(prefix)["begin", job] == 1
    check(bench, {job: FINISHED}, bench.move_due)
    assert bench.journal(prefix)["begin", job] == 2


def test_a_due_job_that_has_ended_meanwhile_is_not_moved(bench: Workbench, prefix: str) -> None:
    """As an id that an older version left in the registry of delayed jobs."""
    job = enqueue(bench, f"{prefix}job")
    assert bench.until_settled([{job: FINISHED}]) == []
    bench.redis.zadd("rq:scheduled:default", {job: 1})
    bench.move_due()
    check(bench, {job: FINISHED})
    assert bench.journal(prefix)["begin", job] == 1


# -- a parent changes while it ends


@pytest.mark.parametrize("change", ["heartbeat", "dependent"])
def test_a_parent_that_is_changed_while_it_ends_is_recorded_once(bench: Workbench, prefix: str, change: str) -> None:
    """At each command of its end, one after the other, it is given another dependent, or a heartbeat."""
    number = 1
    while True:
        parent, child, late = (f"{prefix}{number}-{name}" for name in ("parent", "child", "late"))
        expected = {parent: FINISHED, child: FINISHED}

        def interfere(port: int, parent: str = parent, late: str = late) -> bool:
            if change == "heartbeat":
                bench.redis.hset(f"rq:job:{parent}", "last_heartbeat", "2026-01-31T12:00:00.000000Z")
            else:
                enqueue(bench, late, depends_on=parent)
            return False

        bench.proxy.arm(f"{prefix}{number}-", (Moment.REQUEST, number), interfere)
        enqueue(bench, parent, args=(0.05,))
        enqueue(bench, child, depends_on=parent)
        bench.fleet.until(lambda child=child: bench.redis.exists(f"rq:results:{child}"), LATE)
        # The last commands come after the result.
        bench.pass_barrier()
        bench.proxy.disarm()
        fired = bench.proxy.fired
        if fired and change == "dependent":
            expected[late] = FINISHED
        check(bench, expected)
        journal = bench.journal(f"{prefix}{number}-")
        assert {job: journal["begin", job] for job in expected} == dict.fromkeys(expected, 1)
        if not fired:
            break
        number += 1
    assert number > 2


@pytest.mark.parametrize("number", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_dependents_are_added_while_their_parents_end(fleet: Fleet, number: int) -> None:
    """No fault at all: heartbeats, which change the running jobs, and a producer that is a little late."""
    fleet.environment |= SETTINGS
    fleet.start(2, RQSTACK_HEARTBEAT="0.05")
    queue = Queue(connection=fleet.client)
    jobs = []
    for count in range(number):
        parent = queue.enqueue(FINISH, job_id=f"parent-{count}", args=(0.001,), result_ttl=-1)
        jobs.append(parent.id)
        jobs += [queue.enqueue(FINISH, job_id=f"{name}-{count}", depends_on=parent, result_ttl=-1).id for name in "ab"]
    fleet.until(lambda: fleet.ended() >= len(jobs), number / 20)
    fleet.stop()
    assert_settled(fleet.client, dict.fromkeys(jobs, FINISHED))
    begun = fleet.begun()
    assert {job: begun[job] for job in jobs if begun[job] != 1} == {}


# -- a worker that stood still


@pytest.mark.parametrize("kind", ["plain", "callback", "failing"])
def test_a_worker_that_is_stopped_before_any_command_records_nothing_twice(
    bench: Workbench, prefix: str, kind: str
) -> None:
    """It is held to be dead, another worker ends its job, and then it goes on, with its command on the way."""
    number = 2  # at the first one, which claims, it has no job yet
    while True:
        job = f"{prefix}{number}-job"
        end = FAILED if kind == "failing" else FINISHED
        went_on = Event()

        def stand_still(port: int, job: str = job, went_on: Event = went_on) -> bool:
            first = bench.fleet.running[0]
            tree = bench.fleet.tree(first)
            for pid in tree:
                os.kill(pid, signal.SIGSTOP)
            try:
                bench.fleet.start(1, horses=1, REDIS_URL=bench.server.url)
                # The command that is held may be one after the record: then there is nothing to take over.
                begun = time.monotonic()
                while bench.redis.zcard("rqstack:supervisors") != 1 or _is_open(bench, job):
                    assert time.monotonic() < begun + 40, bench.fleet.tail()
                    time.sleep(0.02)
            finally:
                for pid in tree:
                    os.kill(pid, signal.SIGCONT)
                went_on.set()
            return False

        bench.proxy.arm(f"{prefix}{number}-", (Moment.REQUEST, number), stand_still)
        options = {"on_success": ON_SUCCESS} if kind == "callback" else {}
        enqueue(bench, job, FAIL if kind == "failing" else FINISH, **options)
        bench.fleet.until(lambda job=job: bench.redis.exists(f"rq:results:{job}"), 60)
        if not bench.proxy.fired:
            # Its last commands come after the result.
            bench.pass_barrier()
            bench.proxy.disarm()
        fired = bench.proxy.fired
        if fired:
            assert went_on.wait(60)
            bench.fleet.until(lambda: bench.redis.zcard("rqstack:supervisors") == 2, 30)
            other = bench.fleet.running.pop()
            other.terminate()
            assert other.wait(30) == 0
        check(bench, {job: end})
        if not fired:
            break
        number += 1


def _is_open(bench: Workbench, job: str) -> bool:
    """Whether a job has not ended yet."""
    return bench.redis.hget(f"rq:job:{job}", "status") in (b"queued", b"started")
