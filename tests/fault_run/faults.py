"""The twelve kinds of faults: what each does once to a fleet under load."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fault_run.jobs import Producer
from support.fault_proxy import FaultProxy, Moment
from support.fleet import Fleet
from support.schedulers import Schedulers


@dataclass
class Scene:
    """The processes and the Redis into which faults are injected.

    Args:
        fleet: The workers and their Redis.
        schedulers: The schedulers.
        producer: Enqueues jobs.
        proxy: Stands between all processes and Redis, where the network fails; else None.
        calm: Held while a job is enqueued, and while Redis itself is away: what a producer does then is its own.
        code: The task code that the workers have loaded.
    """

    fleet: Fleet
    schedulers: Schedulers
    producer: Producer
    proxy: FaultProxy | None
    calm: threading.Lock
    code: Path


Fault = Callable[[Scene, int], None]


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: Its name in the table.
        fault: Injects it once; gets the number of the fault.
        jobs: The number of jobs per fault.
        network: The processes reach Redis through a proxy.
        least: The least number of faults.
        redis: Arguments of the Redis server.
        gap: What is lost or doubled is documented, and no failure.
        max_crashes: RQSTACK_MAX_CRASHES. Innocent jobs may be hit again and again.
    """

    name: str
    fault: Fault
    jobs: int
    network: bool = False
    least: int = 3
    redis: Sequence[str] = ("--appendfsync", "always")
    gap: bool = False
    max_crashes: int = 1000


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_horse(scene: Scene, number: int) -> None:
    """kill -9 of a horse."""
    if horses := scene.fleet.horses():
        _kill(scene.fleet.draw.choice(horses))


def kill_forkserver(scene: Scene, number: int) -> None:
    """kill -9 of a forkserver: its horses end with it."""
    if forkservers := scene.fleet.forkservers():
        _kill(scene.fleet.draw.choice(forkservers))


def kill_supervisor(scene: Scene, number: int) -> None:
    """kill -9 of a supervisor: its tree ends by itself; another worker is started."""
    scene.fleet.kill(scene.fleet.draw.choice(scene.fleet.running))
    scene.fleet.start(1)


def kill_scheduler(scene: Scene, number: int) -> None:
    """kill -9 of a scheduler; another one is started."""
    scene.schedulers.kill(scene.fleet.draw.choice(scene.schedulers.running))
    scene.schedulers.start()


def kill_redis(scene: Scene, number: int) -> None:
    """kill -9 of Redis; it is started again from its file."""
    with scene.calm:
        scene.fleet.server.kill()
        scene.fleet.pause(0.0, 0.5)
        scene.fleet.server.start()


def pause(scene: Scene, number: int) -> None:
    """SIGSTOP, and SIGCONT later: a horse, a worker for longer than it may be silent, a scheduler, Redis."""
    fleet = scene.fleet
    what = number % 4
    if what == 0:
        if horses := fleet.horses():
            _stand_still([fleet.draw.choice(horses)], fleet, 0.2, 1.5)
    elif what == 1:
        _stand_still(fleet.tree(fleet.draw.choice(fleet.running)), fleet, 2.5, 4.0)
    elif what == 2:
        _stand_still([fleet.draw.choice(scene.schedulers.running).pid], fleet, 0.5, 2.0)
    else:
        process = fleet.server.process
        assert process is not None
        with scene.calm:
            _stand_still([process.pid], fleet, 0.5, 3.0)


def _stand_still(pids: Sequence[int], fleet: Fleet, least: float, most: float) -> None:
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGSTOP:
            fleet.pause(least, most)


def cut(scene: Scene, number: int) -> None:
    """All connections are cut; every second time those that come next are refused, too."""
    assert scene.proxy is not None
    if number % 2:
        scene.proxy.go_away()
    else:
        scene.proxy.cut()


def delay(scene: Scene, number: int) -> None:
    """Nothing passes for a while."""
    assert scene.proxy is not None
    seconds = scene.fleet.draw.uniform(0.05, 0.5 if number % 4 else 3.0)
    scene.proxy.delay(seconds)
    time.sleep(seconds)


def truncate(scene: Scene, number: int) -> None:
    """Half of a request, or of a reply, arrives; then that connection is closed."""
    assert scene.proxy is not None
    scene.proxy.truncate(Moment.REQUEST if number % 2 else Moment.REPLY)


def scale_down(scene: Scene, number: int) -> None:
    """A worker is asked to end, and ends in peace; another one is started."""
    fleet = scene.fleet
    # One that has just been started has nothing that it could lose.
    fleet.until(lambda: fleet.client.zcard("rqstack:supervisors") >= len(fleet.running), 60)
    leaving = fleet.draw.choice(fleet.running)
    fleet.running.remove(leaving)
    leaving.terminate()
    try:
        assert (code := leaving.wait(60)) == 0, f"a worker that was asked to end ended with {code}"
    finally:
        if leaving.poll() is None:
            leaving.kill()
    fleet.start(1)


def out_of_memory(scene: Scene, number: int) -> None:
    """A job ends its process as the kernel does; every second time a whole worker goes at once."""
    if number % 2:
        fleet = scene.fleet
        worker = fleet.draw.choice(fleet.running)
        for pid in fleet.tree(worker):
            _kill(pid)
        worker.wait()
        fleet.running.remove(worker)
        fleet.start(1)
    else:
        with scene.calm:
            scene.producer.add_fatal()


def deploy(scene: Scene, number: int) -> None:
    """New task code: horses are replaced as they end their jobs."""
    before = scene.fleet.said("The task code has changed")
    with scene.code.open("a") as file:
        file.write(f"# release {number}\n")
    scene.fleet.until(lambda: scene.fleet.said("The task code has changed") >= before + len(scene.fleet.running), 60)


KINDS = [
    Kind("kill -9 of a horse", kill_horse, 80),
    Kind("kill -9 of a forkserver", kill_forkserver, 200),
    Kind("kill -9 of a supervisor", kill_supervisor, 800),
    Kind("kill -9 of a scheduler", kill_scheduler, 200),
    Kind("kill -9 of Redis", kill_redis, 500),
    Kind("pause of each", pause, 800, least=4),
    Kind("network cut", cut, 150, network=True),
    Kind("network delay", delay, 200, network=True),
    Kind("network truncation", truncate, 80, network=True),
    Kind("scale-down", scale_down, 400),
    Kind("out of memory", out_of_memory, 250, least=4, max_crashes=5),
    Kind("deploy", deploy, 800),
]

EVERYSEC = Kind("kill -9 of Redis, everysec", kill_redis, 500, redis=("--appendfsync", "everysec"), gap=True)
"""Redis loses what it has not written yet: about a second. This is documented, and shown in a line of its own."""
