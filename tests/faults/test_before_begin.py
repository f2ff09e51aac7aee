"""Commands that reach a worker whose horse has claimed jobs and not begun them: its claim's reply is on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from rq.command import send_kill_horse_command, send_stop_execution_command, send_stop_job_command
from rq.worker import Worker

from rqstack.worker.lease import jobs_of
from support.fault_proxy import Moment
from support.settled import FINISHED, STOPPED, assert_settled
from support.workbench import Workbench

pytestmark = pytest.mark.timeout(200)

COUNT = 60


@pytest.fixture
def prefix(bench: Workbench) -> Iterator[str]:
    """An idle worker; what the ids of the test's jobs begin with."""
    bench.open()
    bench.start_worker()
    # The first thing that a worker does is a side job, in a process beside the horse.
    bench.fleet.until(lambda: bench.fleet.said("cleaning group registries") and len(bench.fleet.horses()) == 1, 30)
    yield bench.prefix()
    bench.proxy.disarm()
    bench.close()


def claimed(bench: Workbench) -> list[str]:
    """The jobs of the only lease."""
    leases = [lease for key in bench.redis.keys("rqstack:running:*") for lease in bench.redis.hvals(key)]
    return [job_id for lease in leases for _, job_id, _ in jobs_of(lease)]


def stop_at_claim(bench: Workbench, prefix: str, least: int) -> tuple[list[str], list[str]]:
    """Stop the horse as soon as it has claimed so many jobs at once, and has no reply yet.

    Returns:
        All jobs, and those that it has claimed.
    """

    def has_claimed() -> bool:
        found = claimed(bench)
        return len(found) >= least and all(job_id.startswith(prefix) for job_id in found)

    def stop_horse(port: int) -> bool:
        (horse,) = bench.fleet.horses()
        os.kill(horse, signal.SIGSTOP)
        return False

    bench.proxy.arm(prefix, (Moment.REPLY, has_claimed), stop_horse)
    queue = bench.queue()
    ids = [f"{prefix}{number}" for number in range(COUNT if least > 1 else 1)]
    queue.enqueue_many([queue.prepare_data("faulty.outcomes.finish", job_id=job_id, timeout=60) for job_id in ids])
    bench.fleet.until(lambda: bench.proxy.fired, 30)
    return ids, claimed(bench)


def check(bench: Workbench, prefix: str, ids: list[str], stopped: str = "") -> None:
    """All have finished, and begun once, but for the stopped one, which has not begun."""
    expected = dict.fromkeys(ids, FINISHED) | ({stopped: STOPPED} if stopped else {})
    assert bench.until_settled([expected]) == []
    bench.pass_barrier()
    assert_settled(bench.redis, expected)
    journal = bench.journal(prefix)
    assert {job_id: journal["begin", job_id] for job_id in ids} == dict.fromkeys(ids, 1) | (
        {stopped: 0} if stopped else {}
    )
    assert bench.fleet.crashes == {}


@pytest.mark.parametrize("place", [0, 1, -1], ids=["first", "second", "last"])
def test_a_job_of_a_batch_is_stopped_and_the_others_are_put_back(bench: Workbench, prefix: str, place: int) -> None:
    ids, batch = stop_at_claim(bench, prefix, 4)
    send_stop_job_command(bench.redis, batch[place])
    check(bench, prefix, ids, batch[place])


def test_a_single_job_is_stopped(bench: Workbench, prefix: str) -> None:
    _, (job_id,) = stop_at_claim(bench, prefix, 1)
    send_stop_job_command(bench.redis, job_id)
    check(bench, prefix, [job_id], job_id)


def test_an_execution_is_stopped(bench: Workbench, prefix: str) -> None:
    _, (job_id,) = stop_at_claim(bench, prefix, 1)
    (key,) = bench.redis.keys(f"rq:execution:{job_id}:*")
    send_stop_execution_command(bench.redis, job_id, key.decode().rpartition(":")[2])
    check(bench, prefix, [job_id], job_id)


@pytest.mark.parametrize("least", [1, 4], ids=["single", "batch"])
def test_a_killed_horse_fails_nothing_that_it_has_not_begun(bench: Workbench, prefix: str, least: int) -> None:
    ids, _ = stop_at_claim(bench, prefix, least)
    (worker,) = Worker.all(connection=bench.redis)
    send_kill_horse_command(bench.redis, worker.name)
    check(bench, prefix, ids)


@pytest.mark.parametrize("least", [1, 4], ids=["single", "batch"])
def test_a_stop_of_the_worker_fails_nothing_that_it_has_not_begun(bench: Workbench, prefix: str, least: int) -> None:
    """The horse does not answer, so that the worker puts back what it has claimed."""
    ids, batch = stop_at_claim(bench, prefix, least)
    (worker,) = bench.fleet.running
    worker.terminate()
    bench.fleet.until(lambda: bench.redis.hget(f"rq:job:{batch[0]}", "status") == b"queued", 60)
    assert worker.wait(60) == 0
    bench.start_worker()
    check(bench, prefix, ids)


@pytest.mark.parametrize("least", [1, 4], ids=["single", "batch"])
def test_a_horse_that_dies_of_what_it_has_claimed_does_so_a_few_times_only(
    bench: Workbench, prefix: str, least: int
) -> None:
    """Nobody knows why it died, so a job that is alone in its lease counts a crash; one of several does not."""
    ids, batch = stop_at_claim(bench, prefix, least)
    (horse,) = bench.fleet.horses()
    os.kill(horse, signal.SIGKILL)
    expected = dict.fromkeys(ids, FINISHED)
    assert bench.until_settled([expected]) == []
    journal = bench.journal(prefix)
    assert {job_id: journal["begin", job_id] for job_id in ids} == dict.fromkeys(ids, 1)
    assert bench.fleet.crashes == ({batch[0]: 1} if least == 1 else {})
