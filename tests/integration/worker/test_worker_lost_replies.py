"""What must be done once though a reply is lost, and signals that come at a bad time."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from rq import Callback, Repeat, Retry

from support.proxy import LossyProxy
from support.worker_site import Site


@pytest.fixture
def behind(site: Site, proxy: LossyProxy) -> Site:
    """A worker that reaches Redis through a proxy that loses replies."""
    site.add_project()
    site.worker("default", REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
    site.until_idle(1)
    return site


def test_a_failure_whose_reply_is_lost_is_recorded_once(behind: Site, proxy: LossyProxy) -> None:
    proxy.lose_after = [b"failed\r\n"] * 3
    job = behind.queue().enqueue("shop.tasks.note_and_fail", "a", retry=Retry(max=2))
    behind.until_ended(job.id)
    assert proxy.lost == 3
    assert behind.status(job.id) == "failed"
    assert behind.redis.lrange("runs", 0, -1) == [b"a"] * 3
    assert behind.redis.llen("rq:queue:default") == 0


def test_a_success_whose_reply_is_lost_is_recorded_once(behind: Site, proxy: LossyProxy) -> None:
    proxy.lose_after = [b"finished\r\n"]
    queue = behind.queue()
    job = queue.enqueue("shop.tasks.give", on_success=Callback("shop.tasks.tell"), repeat=Repeat(1))
    behind.until(lambda: len(behind.job(job.id).results()) == 2)
    assert proxy.lost == 1
    assert behind.status(job.id) == "finished"
    assert behind.redis.lrange("told", 0, -1) == [job.id.encode()] * 2


def test_a_horse_waits_quietly_after_a_job_s_alarm(site: Site) -> None:
    """The alarm's signal must not keep waking a horse that has nothing to do."""
    site.add_project()
    process = site.worker("default")
    site.until_idle(1)
    job = site.queue().enqueue("shop.tasks.nap", 30, job_timeout=1)
    site.until_ended(job.id)
    assert site.status(job.id) == "failed"
    site.until_idle(1)
    horse = psutil.Process(next(iter(site.horses(process))))
    before = horse.num_ctx_switches().voluntary
    deadline = time.monotonic() + 1.5
    site.until(lambda: time.monotonic() > deadline)
    # One that is woken without end switches thousands of times.
    assert horse.num_ctx_switches().voluntary - before < 200


@pytest.mark.parametrize("after", [0.0, 0.1, 0.2, 0.3])
def test_a_stop_at_a_horse_s_birth_is_not_missed(site: Site, after: float) -> None:
    site.add_project()
    process = site.worker("default", "-n", "6", RQSTACK_GRACE="25")
    site.until(lambda: len(site.workers()) == 6)
    deadline = time.monotonic() + after
    site.until(lambda: time.monotonic() >= deadline)
    os.kill(process.pid, signal.SIGTERM)
    # Horses without jobs end at once; the grace is for jobs. It would be 22 s for one that has missed the signal.
    assert process.wait(20) == 0


def test_the_callback_of_an_abandoned_job_is_held_to_the_allow_list(site: Site) -> None:
    site.add_project()
    job = site.queue().enqueue("shop.tasks.give", on_failure=Callback("os.system"))
    other = site.queue().enqueue("shop.tasks.give")
    # As a worker of RQ's leaves it that died over it long ago.
    site.redis.lrem("rq:queue:default", 1, job.id)
    site.redis.hset(f"rq:job:{job.id}", mapping={"status": "started", "failure_callback_name": "this.d"})
    site.redis.zadd("rq:wip:default", {f"{job.id}:0123456789abcdef": 1})
    site.worker("default")
    site.until_ended(other.id)
    site.until(lambda: site.status(job.id) == "failed", site.output())
    assert "The Zen of Python" not in site.output()
    assert "this.d" in site.output()


def test_each_horse_has_connections_of_its_own(site: Site) -> None:
    """Redis sees a dead horse's connections close, though its forkserver opened them and forked others at once."""
    site.add_project()
    process = site.worker("high", "default", "-n", "20")
    site.until_idle(20)
    horses = site.horses(process)
    assert len(horses) == 20
    owners: dict[int, set[int]] = {}
    for pid in [process.pid, *horses, *(forkserver.pid for forkserver in psutil.Process(process.pid).children())]:
        for connection in psutil.Process(pid).net_connections("tcp"):
            owners.setdefault(connection.laddr.port, set()).add(pid)
    # The supervisor's own, which all others have by their forks, close with it.
    assert [pids for pids in owners.values() if len(pids) > 1 and process.pid not in pids] == []
    for horse in horses:  # one for calls, one to wait on the first queue
        assert len([pids for pids in owners.values() if pids == {horse}]) == 2
    assert site.stop(process) == 0
