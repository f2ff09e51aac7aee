"""Redis is killed and started again, or stands still: every job runs, and is recorded once."""

from __future__ import annotations

import signal
import time

import pytest
from redis.exceptions import RedisError

from support.fleet import Fleet

pytestmark = pytest.mark.timeout(400)


def is_written(fleet: Fleet) -> bool:
    """Whether all is in Redis's file, so that it outlives Redis's process. (With everysec some may not be yet.)"""
    return bool(fleet.client.info("persistence")["aof_buffer_length"] == 0)


@pytest.mark.parametrize(("number", "kills"), [(2_000, 3), pytest.param(20_000, 20, marks=pytest.mark.slow)])
def test_redis_is_killed_and_started_again(fleet: Fleet, number: int, kills: int) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(number)], args=(0.004,))
    fleet.until(lambda: is_written(fleet))
    fleet.start(2)
    for kill in range(1, kills + 1):
        fleet.until(lambda: fleet.ended() > kill * number // (kills + 2))  # noqa: B023
        fleet.server.kill()
        fleet.pause(0.1, 1.5)
        fleet.server.start()
    fleet.finish(ids)
    again = [job for job, times in fleet.begun().items() if times > 1]
    print(f"{kills} kills of Redis, {len(again)} of {number} jobs begun more than once")


def test_redis_and_workers_are_killed_together(fleet: Fleet) -> None:
    """As when the host goes down."""
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.004,))
    fleet.until(lambda: is_written(fleet))
    for turn in (1, 2):
        fleet.start(2)
        fleet.until(lambda: fleet.ended() > turn * 500)  # noqa: B023
        fleet.server.kill()
        for supervisor in list(fleet.running):
            fleet.kill(supervisor)
        fleet.server.start()
    fleet.start(2)
    fleet.finish(ids)
    assert [job for job, times in fleet.begun().items() if times > 1]


def test_redis_stands_still_for_longer_than_a_worker_may(fleet: Fleet) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.03,))
    fleet.start(3, RQSTACK_DEAD_AFTER="3")
    fleet.until(lambda: fleet.client.zcard("rqstack:supervisors") == 3)
    # Before that they would take nobody for dead.
    ready = time.monotonic() + 4
    fleet.until(lambda: time.monotonic() > ready)
    fleet.server.process.send_signal(signal.SIGSTOP)
    try:
        fleet.pause(4.0, 4.5)
    finally:
        fleet.server.process.send_signal(signal.SIGCONT)
    fleet.finish(ids)
    # Nobody was dead: all stood still together.
    assert fleet.said("is dead") == 0
    assert {job: times for job, times in fleet.begun().items() if times > 1} == {}


def test_writes_are_paused(fleet: Fleet) -> None:
    """What a failover to another Redis does, and a person with CLIENT PAUSE."""
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.004,))
    fleet.start(2)
    fleet.until(lambda: fleet.ended() > 500)
    fleet.client.execute_command("CLIENT", "PAUSE", 3_000, "WRITE")
    fleet.finish(ids)
    assert {job: times for job, times in fleet.begun().items() if times > 1} == {}


def test_redis_refuses_writes_for_want_of_memory(fleet: Fleet) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.004,))
    fleet.start(2)
    fleet.until(lambda: fleet.ended() > 500)
    fleet.client.config_set("maxmemory", 1)
    fleet.until(lambda: fleet.said("Redis refuses"))
    with pytest.raises(RedisError):
        fleet.client.set("more", "data")
    fleet.client.config_set("maxmemory", 0)
    fleet.finish(ids)
