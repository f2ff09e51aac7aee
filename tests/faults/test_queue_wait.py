"""Many queues: a supervisor waits on them for its idle horses, and no job that Redis has moved to it is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from rqstack.transport import keys
from support.fleet import Fleet

pytestmark = pytest.mark.timeout(400)

QUEUES = ("high", "default", "low")
MANY = tuple(f"q{number}" for number in range(50))
KEYS_OF_LOW = "rqstack:claim:*:rq:queue:low"


def blocked(fleet: Fleet) -> int:
    """How many connections wait in Redis."""
    return sum("b" in client["flags"] for client in fleet.client.client_list())


def until_waiting(fleet: Fleet, number: int) -> None:
    fleet.until(lambda: blocked(fleet) == number)


def supervisor_ids(fleet: Fleet) -> list[str]:
    return [name.decode() for name in fleet.client.zrange(keys.SUPERVISORS, 0, -1)]


def where(fleet: Fleet, job: str) -> str:
    """The id of the supervisor whose worker has run a job."""
    worker = fleet.client.hget(f"rq:job:{job}", "worker_name") or b""
    for name in supervisor_ids(fleet):
        if worker in fleet.client.hkeys(keys.running(name)):
            return name
    return ""


def test_eight_horses_and_fifty_queues(fleet: Fleet) -> None:
    fleet.start(horses=8, queues=MANY)
    until_waiting(fleet, 49 + 8)
    # Each horse's main connection; the supervisor's, its subscription, its redis-py connection; and this test's.
    assert len(fleet.client.client_list()) <= 49 + 2 * 8 + 5
    ids = [job for queue in MANY for job in fleet.enqueue([f"{queue}-{n}" for n in range(4)], queue=queue)]
    fleet.until(lambda: fleet.ended(MANY) == len(ids))
    until_waiting(fleet, 49 + 8)
    fleet.finish(ids, MANY)
    assert set(fleet.begun().values()) == {1}


def test_two_hundred_queues_on_one_worker(fleet: Fleet) -> None:
    queues = [f"q{number}" for number in range(200)]
    fleet.start(horses=8, queues=queues)
    until_waiting(fleet, 199 + 8)
    ids = [job for queue in queues[::-1] for job in fleet.enqueue([f"{queue}-a", f"{queue}-b"], queue=queue)]
    fleet.finish(ids, queues)
    assert set(fleet.begun().values()) == {1}


def test_the_last_of_fifty_queues_needs_no_polling(fleet: Fleet) -> None:
    """Nothing is due for a long time when the job comes: no wait ends, no heartbeat, no look."""
    fleet.start(horses=2, queues=MANY, RQSTACK_DEAD_AFTER="120", RQSTACK_HEARTBEAT="60")
    until_waiting(fleet, 49 + 2)
    ids = []
    for number in range(30):
        before = fleet.client.info("commandstats")["cmdstat_blmove"]["calls"]
        ids += fleet.enqueue([f"job-{number}"], queue=MANY[-1])
        fleet.until(lambda: fleet.ended(MANY) == number + 1)  # noqa: B023
        until_waiting(fleet, 49 + 2)
        # The supervisor's wait on that queue and the horse's own begin anew, and no other.
        assert fleet.client.info("commandstats")["cmdstat_blmove"]["calls"] - before <= 4
    fleet.finish(ids, MANY)


def test_a_supervisor_is_killed_with_a_job_in_its_claim_list(fleet: Fleet) -> None:
    """Its horses stand still, so what it has moved, and woken them for, is taken by none."""
    fleet.start(queues=QUEUES)
    until_waiting(fleet, 4)
    for pid in fleet.horses():
        os.kill(pid, signal.SIGSTOP)
    os.kill(fleet.running[0].pid, signal.SIGSTOP)
    ids = fleet.enqueue(["low-1", "low-2"], queue="low")
    fleet.until(lambda: fleet.client.keys(KEYS_OF_LOW))
    (held,) = fleet.client.keys(KEYS_OF_LOW)
    assert held == keys.claim(supervisor_ids(fleet)[0], "rq:queue:low").encode()
    assert fleet.client.lrange(held, 0, -1) == [b"low-1"]
    fleet.kill(fleet.running[0])
    assert fleet.client.lrange(held, 0, -1) == [b"low-1"]
    fleet.start(queues=QUEUES)
    fleet.finish(ids, QUEUES)
    assert fleet.begun() == {"low-1": 1, "low-2": 1}


def test_what_redis_moves_to_a_dead_supervisor_is_found(fleet: Fleet) -> None:
    """Its connections are still there, as after a cut network: Redis moves jobs to it after it was taken over."""
    fleet.start(horses=1, queues=QUEUES, RQSTACK_DEAD_AFTER="4")
    until_waiting(fleet, 3)
    dead = supervisor_ids(fleet)[0]
    stopped = fleet.tree(fleet.running[0])
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    fleet.start(horses=1, queues=QUEUES)
    fleet.until(lambda: fleet.said("is dead"))
    fleet.client.rpush(keys.claim(dead, "rq:queue:low"), *fleet.enqueue(["low-1"], queue="elsewhere"))
    fleet.client.delete("rq:queue:elsewhere")
    fleet.client.hset("rq:job:low-1", "origin", "low")
    ids = [*fleet.enqueue(["high-1"], queue="high"), "low-1"]
    fleet.until(lambda: fleet.ended(QUEUES) == 2)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    fleet.finish(ids, QUEUES)
    assert fleet.begun() == dict.fromkeys(ids, 1)


def test_a_busy_supervisor_leaves_the_job_to_an_idle_one(fleet: Fleet) -> None:
    """The first one's waits are the oldest, so Redis gives it each job first."""
    fleet.start(queues=QUEUES)
    until_waiting(fleet, 4)
    first = supervisor_ids(fleet)[0]
    fleet.start(queues=QUEUES)
    until_waiting(fleet, 8)
    # The two horses whose turn is first are those of the first supervisor.
    long = fleet.enqueue(["long-1", "long-2"], "work", (8.0,), queue="high")
    fleet.until(lambda: {line.job for line in fleet.journal()} >= set(long))
    low = fleet.enqueue([f"low-{n}" for n in range(20)], queue="low")
    default = fleet.enqueue([f"default-{n}" for n in range(20)], queue="default")
    fleet.until(lambda: fleet.ended(QUEUES) == 40)
    if {where(fleet, job) for job in long} == {first}:
        assert {where(fleet, job) for job in [*low, *default]}.isdisjoint({first})
    ends = [line.job for line in fleet.journal() if line.what == "end"]
    assert set(ends) == {*low, *default}, "none has waited for a busy horse"
    fleet.finish([*long, *low, *default], QUEUES)
    assert set(fleet.begun().values()) == {1}


def test_a_job_of_a_lower_queue_with_every_horse_busy(fleet: Fleet) -> None:
    """It is given back to its queue at once, where whoever comes finds it, in the order of the queues."""
    fleet.start(horses=1, queues=QUEUES)
    until_waiting(fleet, 3)
    ids = fleet.enqueue(["long"], "work", (3.0,), queue="high")
    fleet.until(lambda: fleet.journal())
    ids += fleet.enqueue(["low"], queue="low")
    fleet.until(lambda: fleet.client.lrange("rq:queue:low", 0, -1) == [b"low"])
    ids += fleet.enqueue(["default"], queue="default")
    fleet.until(lambda: fleet.client.lrange("rq:queue:default", 0, -1) == [b"default"])
    assert fleet.client.keys("rqstack:claim:*") == []
    fleet.until(lambda: blocked(fleet) == 0)
    assert [line.job for line in fleet.journal()] == ["long"]
    fleet.finish(ids, QUEUES)
    assert [line.job for line in fleet.journal() if line.what == "begin"] == ["long", "default", "low"]


def test_a_woken_horse_is_killed(fleet: Fleet) -> None:
    fleet.start(horses=1, queues=QUEUES)
    until_waiting(fleet, 3)
    (horse,) = fleet.until(lambda: found if len(found := fleet.horses()) == 1 else None)  # the cleaning has ended
    os.kill(horse, signal.SIGSTOP)
    ids = fleet.enqueue(["low-1"], queue="low")
    # Woken, as Redis says: its own wait has ended, though it has not noticed.
    fleet.until(lambda: fleet.client.info("commandstats").get("cmdstat_client|unblock"))
    os.kill(horse, signal.SIGKILL)
    fleet.finish(ids, QUEUES)
    assert fleet.begun() == {"low-1": 1}


def faults(fleet: Fleet) -> list[Callable[[subprocess.Popen[bytes]], Any]]:
    """Each makes trouble for one supervisor."""

    def kill_a_horse(supervisor: subprocess.Popen[bytes]) -> None:
        if horses := fleet.horses(supervisor):
            os.kill(fleet.draw.choice(horses), signal.SIGKILL)

    def kill_all(supervisor: subprocess.Popen[bytes]) -> None:
        fleet.kill(supervisor)
        fleet.start(queues=MANY[:12], RQSTACK_MAX_CRASHES="1000")

    def stop(supervisor: subprocess.Popen[bytes]) -> None:
        supervisor.terminate()
        assert supervisor.wait(60) == 0
        fleet.running.remove(supervisor)
        fleet.start(queues=MANY[:12], RQSTACK_MAX_CRASHES="1000")

    def kill_a_forkserver(supervisor: subprocess.Popen[bytes]) -> None:
        children = psutil.Process(supervisor.pid).children()
        if children:
            children[0].kill()

    def pause(supervisor: subprocess.Popen[bytes]) -> None:
        os.kill(supervisor.pid, signal.SIGSTOP)
        fleet.pause(0.1, 0.5)
        os.kill(supervisor.pid, signal.SIGCONT)

    def cut(supervisor: subprocess.Popen[bytes]) -> None:
        for client in fleet.client.client_list():
            if "b" in client["flags"] and fleet.draw.random() < 0.3:
                fleet.client.client_kill_filter(_id=client["id"])

    return [kill_a_horse, kill_all, stop, kill_a_forkserver, pause, cut]


@pytest.mark.parametrize("number", [600, pytest.param(6_000, marks=pytest.mark.slow)])
def test_faults_while_horses_are_woken(fleet: Fleet, number: int) -> None:
    """Jobs trickle in on twelve queues, so that horses are idle most of the time."""
    queues = MANY[:12]
    fleet.start(3, queues=queues, RQSTACK_MAX_CRASHES="1000")
    until_waiting(fleet, 3 * (11 + 2))
    kinds = faults(fleet)
    ids = []
    for n in range(number):
        ids += fleet.enqueue([f"job-{n}"], args=(0.004,), queue=fleet.draw.choice(queues))
        fleet.pause(0, 0.02)
        if n % 25 == 24:
            # One that is up: what comes before it reacts to signals is another matter.
            ready = fleet.until(lambda: [each for each in fleet.running if fleet.horses(each)])
            kinds[n // 25 % len(kinds)](fleet.draw.choice(ready))
    fleet.finish(ids, queues)


def test_waiting_costs_no_cpu(fleet: Fleet) -> None:
    """An idle supervisor sleeps: over a second, it wakes a handful of times."""
    fleet.start(horses=4, queues=MANY, RQSTACK_DEAD_AFTER="12", RQSTACK_HEARTBEAT="5")
    until_waiting(fleet, 49 + 4)
    process = psutil.Process(fleet.running[0].pid)
    switches, begun = process.num_ctx_switches(), time.monotonic()
    fleet.pause(3, 3)
    woken = process.num_ctx_switches().voluntary - switches.voluntary
    assert woken / (time.monotonic() - begun) < 20
