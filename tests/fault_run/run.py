"""Runs jobs under one kind of faults."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from redis.exceptions import RedisError

from fault_run.account import Row, account
from fault_run.faults import Kind, Scene
from fault_run.jobs import QUEUE, Producer
from support.fault_proxy import FaultProxy
from support.fleet import Fleet
from support.projects import copy_project
from support.redis_server import RedisServer
from support.schedulers import Schedulers
from support.settled import problems

WORKERS = 2
SCHEDULERS = 2
BACKLOG = 100
"""Jobs that wait at most, so that dependents are enqueued while their parents run."""

STUCK_AFTER = 45.0
"""Seconds without any job that ends, after which the rest is stuck."""

Report = Callable[[int, int], None]
"""Told how many jobs have been enqueued, and how many have ended."""


def run(kind: Kind, jobs: int, seed: int, folder: Path, report: Report) -> Row:
    """Run jobs under a kind of faults.

    Args:
        kind: The kind.
        jobs: How many.
        seed: Of all random numbers.
        folder: For logs, the journal and the task code.
        report: Called every few jobs.
    """
    begun = time.monotonic()
    row = Row(kind.name, gap=kind.gap)
    folder.mkdir(parents=True)
    project = copy_project("faulty", folder / "tasks").parent
    (project / "rqstack-modules.txt").write_text("faulty.tasks\nfaulty.outcomes\n")
    with contextlib.ExitStack() as stack:
        server = RedisServer(*kind.redis)
        stack.callback(server.close)
        server.start()
        proxy = FaultProxy(server.port) if kind.network else None
        if proxy is not None:
            stack.callback(proxy.close)
        url = server.url if proxy is None else f"redis://127.0.0.1:{proxy.port}/0"
        environment = {
            "RQSTACK_HOME": str(folder),
            "RQSTACK_MODULES": "",
            "RQSTACK_RELOAD": "1",
            "RQSTACK_MAX_CRASHES": str(kind.max_crashes),
            "FAULTS_REDIS_PORT": str(server.port),
            "PYTHONPATH": "",
            "REDIS_URL": url,
        }
        fleet = Fleet(server, folder)
        stack.callback(fleet.close)
        fleet.environment |= environment
        fleet.draw = random.Random(f"{seed} {kind.name}")
        schedulers = Schedulers(url, folder / "schedulers.log")
        stack.callback(schedulers.close)
        schedulers.environment = os.environ | environment
        producer = Producer(server.client(), random.Random(f"{seed} {kind.name} jobs"))
        stack.callback(producer.client.close)
        scene = Scene(fleet, schedulers, producer, proxy, threading.Lock(), project / "faulty" / "outcomes.py")
        fleet.start(WORKERS)
        schedulers.start(SCHEDULERS)
        fleet.until(lambda: fleet.client.zcard("rqstack:supervisors") == WORKERS)
        _load(scene, kind, jobs, row, report)
        _await_all(scene, report)
        row.details += _stop(scene)
        row.jobs = len(producer.expected)
        account(row, fleet.client, producer.expected, producer.runs, fleet.begun())
    row.seconds = time.monotonic() - begun
    return row


def _load(scene: Scene, kind: Kind, jobs: int, row: Row, report: Report) -> None:
    """Enqueue all jobs, slice by slice, with a fault in each slice."""
    faults = max(kind.least, jobs // kind.jobs)
    fleet = scene.fleet
    for number in range(faults):
        slice_ = jobs * (number + 1) // faults - jobs * number // faults
        thread = threading.Thread(target=_produce, args=(scene, slice_, report))
        thread.start()
        fleet.pause(0.0, 0.3)
        try:
            kind.fault(scene, number)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            row.stuck += 1
            row.details.append(f"{kind.fault.__name__}: {error}")
        row.faults += 1
        thread.join()


def _produce(scene: Scene, jobs: int, report: Report) -> None:
    producer, client = scene.producer, scene.producer.client
    wanted = len(producer.expected) + jobs
    while len(producer.expected) < wanted:
        with scene.calm:
            producer.enqueue(min(20, wanted - len(producer.expected)))
        report(len(producer.expected), scene.fleet.ended())
        while True:
            with scene.calm:
                if client.llen(f"rq:queue:{QUEUE}") <= BACKLOG:
                    break
            time.sleep(0.01)


def _await_all(scene: Scene, report: Report) -> None:
    """Wait until all jobs have ended, or nothing more happens."""
    expected = scene.producer.expected
    last, since = -1, time.monotonic()
    while time.monotonic() < since + STUCK_AFTER:
        try:
            ended = scene.fleet.ended()
            if ended != last:
                last, since = ended, time.monotonic()
            report(len(expected), ended)
            if ended >= len(expected) * 0.9 and not problems(scene.fleet.client, expected):
                return
        except RedisError:
            pass
        time.sleep(0.25)


def _stop(scene: Scene) -> list[str]:
    """End all processes in peace. Returns what did not."""
    scene.schedulers.close()
    wrong = []
    for worker in scene.fleet.running:
        worker.terminate()
    for worker in list(scene.fleet.running):
        try:
            if (code := worker.wait(60)) != 0:
                wrong.append(f"a worker ended with {code}")
            scene.fleet.running.remove(worker)
        except Exception as error:
            wrong.append(f"a worker does not end: {error}")
    return wrong
