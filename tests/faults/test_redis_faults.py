"""Redis is killed and started again, or stands still: every job runs, and is recorded once."""

from __future__ import annotations

import signal
import time

import pytest
from redis import Redis
from redis.exceptions import RedisError

from support.fault_proxy import FaultProxy
from support.fleet import Fleet
from support.redis_server import RedisServer

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


@pytest.mark.slow
def test_a_worker_stops_while_writes_are_paused(fleet: Fleet) -> None:
    """Its waits have ended and begun again, and Redis keeps those: it would crash if one of them were ended."""
    fleet.start(queues=("high", "default", "low"), horses=1, RQSTACK_GRACE="8")
    fleet.until(lambda: len(waits(fleet)) == 3 and min(waits(fleet)) > 0)
    fleet.client.execute_command("CLIENT", "PAUSE", 20_000, "WRITE")
    fleet.until(lambda: 0 in waits(fleet))
    fleet.stop(60)
    assert fleet.client.ping()
    fleet.start()
    fleet.finish(fleet.enqueue(["job"]))


def waits(fleet: Fleet) -> list[int]:
    """For how many seconds connections have waited for jobs, or to be let do that."""
    clients = fleet.client.client_list()
    return [int(each["idle"]) for each in clients if "b" in each["flags"] and each["cmd"] == "blmove"]


def test_a_failover_to_a_replica(fleet: Fleet) -> None:
    """The address is the new primary's from now on; connections to the old one stay, and it refuses writes."""
    replica = RedisServer()
    replica.start()
    proxy = FaultProxy(fleet.server.port)
    fleet.environment["REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        with replica.client() as other:
            other.replicaof("127.0.0.1", str(fleet.server.port))
            fleet.until(lambda: other.info("replication")["master_link_status"] == "up")
            fleet.start(2)
            ids = fleet.enqueue([f"before-{n}" for n in range(200)], args=(0.004,))
            fleet.until(lambda: fleet.ended() > 100)
            fleet.client.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            fleet.until(lambda: is_in_step(fleet, other))
            other.replicaof("NO", "ONE")
            proxy.target = replica.port
            fleet.client.execute_command("CLIENT", "UNPAUSE")
            fleet.client.replicaof("127.0.0.1", str(replica.port))
            fleet.client.close()
            fleet.client = replica.client()
            ids += fleet.enqueue([f"behind-{n}" for n in range(200)], args=(0.004,))
            fleet.finish(ids)
            assert set(fleet.begun().values()) == {1}
    finally:
        fleet.close()
        proxy.close()
        replica.close()


def is_in_step(fleet: Fleet, other: Redis) -> bool:
    """Whether the replica has all that the primary has."""
    return bool(
        fleet.client.info("replication")["master_repl_offset"] == other.info("replication")["slave_repl_offset"]
    )


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
