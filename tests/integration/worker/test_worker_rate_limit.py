"""Jobs with RQ's RateLimit: a job gives its slot back however it ends, and keeps it where it is put back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import psutil
import pytest
from rq import RateLimit
from rq.executions import ExecutionRegistry
from rq.rate_limit import RateLimitRegistry

from support.worker_site import Site

ONE = RateLimit("one", 1)


@pytest.fixture
def running(site: Site) -> Iterator[Site]:
    site.add_project()
    site.worker("default", "--processes", "2", "--name", "pair", RQSTACK_MAX_CRASHES="2")
    return site


def enqueue(site: Site, function: str, name: str) -> None:
    site.queue().enqueue(f"shop.tasks.{function}", job_id=name, rate_limit=ONE)


def holding(site: Site, name: str, count: int = 1) -> int:
    """Wait until a job holds for the n-th time; returns the process that runs it."""
    site.until(lambda: site.redis.llen(f"holding:{name}") >= count, f"{name} to run")
    return int(site.redis.lindex(f"holding:{name}", count - 1))


def slots(site: Site) -> tuple[list[bytes], list[bytes]]:
    """The jobs that hold a slot, and those that wait for one."""
    return site.redis.zrange("rq:rl:one:allowed", 0, -1), site.redis.zrange("rq:rl:one:rate_limited", 0, -1)


def test_one_after_the_other(running: Site) -> None:
    for name in ("first", "second"):
        enqueue(running, "hold", name)
    holding(running, "first")
    assert slots(running) == ([b"first"], [b"second"])
    assert running.status("second") == "rate_limited"
    running.redis.rpush("release:first", 1)
    holding(running, "second")
    assert slots(running) == ([b"second"], [])
    running.redis.rpush("release:second", 1)
    running.until_ended("first", "second")
    running.until(lambda: slots(running) == ([], []), "no slot to be held")


def test_a_job_whose_horse_dies_keeps_its_slot(running: Site) -> None:
    for name in ("first", "second"):
        enqueue(running, "hold", name)
    os.kill(holding(running, "first"), signal.SIGKILL)
    holding(running, "first", 2)
    assert slots(running) == ([b"first"], [b"second"])
    for name in ("first", "second"):
        running.redis.rpush(f"release:{name}", 1)
    running.until_ended("first", "second")
    running.until(lambda: slots(running) == ([], []), "no slot to be held")


def test_a_job_whose_whole_worker_dies_keeps_its_slot(running: Site) -> None:
    for name in ("first", "second"):
        enqueue(running, "hold", name)
    holding(running, "first")
    (worker,) = running.started
    for process in (*psutil.Process(worker.pid).children(recursive=True), worker):
        process.kill()
    running.worker("default", "--name", "other")
    holding(running, "first", 2)
    assert slots(running) == ([b"first"], [b"second"])
    assert running.redis.keys("rq:worker:pair-*") == []
    for name in ("first", "second"):
        running.redis.rpush(f"release:{name}", 1)
    running.until_ended("first", "second")


def test_an_abandoned_job_gives_its_slot_back(running: Site) -> None:
    enqueue(running, "crash", "poison")
    enqueue(running, "hold", "second")
    holding(running, "second")
    assert running.status("poison") == "failed"
    assert slots(running) == ([b"second"], [])
    running.redis.rpush("release:second", 1)
    running.until_ended("second")


def test_a_job_that_is_deleted_while_it_runs_gives_its_slot_back_when_it_ends(running: Site) -> None:
    for name in ("first", "second"):
        enqueue(running, "hold", name)
    holding(running, "first")
    running.job("first").delete()
    assert slots(running) == ([b"first"], [b"second"])  # it still runs
    running.redis.rpush("release:first", 1)
    holding(running, "second")
    assert ExecutionRegistry("first", running.redis).get_execution_ids() == []
    running.redis.rpush("release:second", 1)
    running.until_ended("second")
    running.until(lambda: slots(running) == ([], []), "no slot to be held")


def test_a_job_that_is_canceled_while_it_runs_keeps_its_slot_as_long(running: Site) -> None:
    for name in ("first", "second"):
        enqueue(running, "hold", name)
    holding(running, "first")
    (execution,) = running.job("first").get_executions()
    running.job("first").cancel()
    running.redis.expire(execution.key, 20)
    running.until(lambda: running.redis.ttl(execution.key) > 20, "a heartbeat")
    RateLimitRegistry("one", running.redis).cleanup()
    assert slots(running) == ([b"first"], [b"second"])
    running.redis.rpush("release:first", 1)
    holding(running, "second")
    running.redis.rpush("release:second", 1)
    running.until_ended("second")


@pytest.mark.parametrize("whole_worker", [False, True], ids=["horse", "worker"])
@pytest.mark.parametrize("change", ["canceled", "deleted", "enqueued again"])
def test_a_changed_job_whose_horse_dies_gives_its_slot_back_at_once(
    running: Site, change: str, whole_worker: bool
) -> None:
    """RQ's cleaning, which does so too, comes every ten minutes."""
    for name in ("first", "second"):
        enqueue(running, "hold", name)
    process = holding(running, "first")
    if change == "canceled":
        running.job("first").cancel()
    elif change == "deleted":
        running.job("first").delete()
    else:
        # Those that wait for a slot are in order by whole seconds.
        since = running.redis.zscore("rq:rl:one:rate_limited", "second")
        running.until(lambda: running.redis.time()[0] > since, "the next second")
        enqueue(running, "hold", "first")
        assert slots(running) == ([b"first"], [b"second", b"first"])
    if whole_worker:
        (worker,) = running.started
        for each in (*psutil.Process(worker.pid).children(recursive=True), worker):
            each.kill()
        running.worker("default", "--name", "other")
    else:
        os.kill(process, signal.SIGKILL)
    holding(running, "second")
    assert slots(running) == ([b"second"], [b"first"] if change == "enqueued again" else [])
    for name in ("second", "first"):
        running.redis.rpush(f"release:{name}", 1)
    running.until_ended("second", *(["first"] if change == "enqueued again" else []))
    running.until(lambda: slots(running) == ([], []), "no slot to be held")
    assert running.redis.llen("holding:second") == 1
