"""Workers in containers that are killed, cut off from the network, and scaled up and down under load."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from rqstack.settings import Settings, load
from rqstack.transport.client import connect
from support.account import account
from support.compose_stack import ComposeStack, engine_answers
from support.journal import count_begun, read_journal
from support.projects import copy_project

pytestmark = [pytest.mark.compose, pytest.mark.timeout(900)]

SETTINGS = {
    "RQSTACK_PROCESSES": "2",
    "RQSTACK_DEAD_AFTER": "3",
    "RQSTACK_HEARTBEAT": "0.5",
    "RQSTACK_MAX_CRASHES": "1000",
}
OVERRIDE = """
services:
  worker:
    environment: {FAULTS_JOURNAL: /journal/lines}
    volumes: ["./journal:/journal"]
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """One stack for all tests of this module; its workers are started by each test."""
    if not engine_answers():
        pytest.skip("no Docker engine with compose answers")
    home = tmp_path_factory.mktemp("stack")
    # Its files are mounted into containers that run as other users.
    for folder in (home, *home.parents[:2]):
        folder.chmod(0o755)
    stack = ComposeStack(home, SETTINGS)
    try:
        copy_project("faulty", home / "tasks")
        (home / "docker-compose.override.yml").write_text(OVERRIDE)
        (home / "journal").mkdir()
        (home / "journal").chmod(0o777)
        stack.start()
        yield stack
    except BaseException:
        print(stack.show())
        raise
    finally:
        stack.close()


class Containers:
    """The worker containers of a stack, an empty Redis, and what their jobs write down."""

    def __init__(self, stack: ComposeStack) -> None:
        self.stack = stack
        self.settings = load(Settings)
        self.client: Redis = connect(self.settings)
        self.draw = random.Random(8)
        self.ids: list[str] = []

    def scale(self, number: int) -> None:
        self.stack.compose(
            "up", "--detach", "--no-build", "--no-deps", "--no-recreate", "--scale", f"worker={number}", "worker"
        )

    def running(self) -> list[str]:
        return [each["Id"] for each in self.stack.containers("worker") if each["State"]["Running"]]

    def enqueue(self, number: int, seconds: float) -> None:
        from rqstack.enqueue import get_queue

        names = [f"job-{len(self.ids) + n}" for n in range(number)]
        queue = get_queue("default", connection=self.client, settings=self.settings)
        queue.enqueue_many([queue.prepare_data("faulty.tasks.work", args=(seconds,), job_id=name) for name in names])
        self.ids += names

    def ended(self) -> int:
        return int(self.client.zcard("rq:finished:default")) + int(self.client.zcard("rq:failed:default"))

    def alive(self) -> int:
        return int(self.client.zcard("rqstack:supervisors"))

    def begun(self) -> Counter[str]:
        return count_begun(read_journal(self.journal))

    @property
    def journal(self) -> Path:
        return self.stack.home / "journal" / "lines"

    def said(self, words: str) -> int:
        return self.stack.compose("logs", "--no-color", "worker").stdout.count(words)

    def finish(self) -> None:
        """Wait until all jobs have ended and the dead are taken over; then stop every worker."""
        self.stack.until(lambda: self.ended() >= len(self.ids), 240)
        self.stack.until(lambda: self.alive() == len(self.running()), 60)
        self.stack.compose("stop", "worker")


@pytest.fixture
def containers(stack: ComposeStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Containers]:
    """No worker runs, Redis is empty, and nothing is written down."""
    monkeypatch.setenv("RQSTACK_HOME", str(stack.home))
    stack.compose("rm", "--stop", "--force", "worker", "long-worker", "scheduler")
    found = Containers(stack)
    found.client.flushall()
    found.journal.unlink(missing_ok=True)
    yield found
    found.client.close()


def test_worker_containers_are_killed(containers: Containers) -> None:
    containers.enqueue(2_000, 0.04)
    containers.scale(4)
    kills = 0
    for share in (10, 5, 3, 2):
        containers.stack.until(lambda: containers.ended() > 2_000 // share)  # noqa: B023
        containers.stack.docker("kill", containers.draw.choice(containers.running()))
        kills += 1
        containers.scale(4)
    containers.finish()
    begun = containers.begun()
    again = [job for job, times in begun.items() if times > 1]
    assert again
    account(containers.client, begun, containers.ids)
    print(f"{kills} containers killed, {len(again)} of {len(begun)} jobs begun more than once")


def test_the_network_of_workers_is_cut_and_restored(containers: Containers) -> None:
    stack = containers.stack
    containers.enqueue(2_000, 0.04)
    containers.scale(4)
    stack.until(lambda: containers.alive() == 4 and containers.ended() > 100)
    cut = containers.draw.sample(containers.running(), 2)
    networks = [f"{stack.project}_broker", f"{stack.project}_outside"]
    for container in cut:
        for network in networks:
            stack.docker("network", "disconnect", network, container)
    stack.until(lambda: containers.alive() == 2)
    containers.enqueue(500, 0.01)
    for container in cut:
        for network in networks:
            stack.docker("network", "connect", network, container)
    stack.until(lambda: containers.alive() == 4, 120)
    # They were running jobs that others have run meanwhile: their results are not recorded.
    stack.until(lambda: containers.said("was given to another worker meanwhile"), 120)
    containers.finish()
    begun = containers.begun()
    again = [job for job, times in begun.items() if times > 1]
    assert again
    account(containers.client, begun, containers.ids)
    print(f"2 of 4 containers cut off, {len(again)} of {len(begun)} jobs begun more than once")


def test_scaling_up_and_down_under_load(containers: Containers) -> None:
    """As `docker compose up --scale worker=8`, then `--scale worker=2`: no job runs twice."""
    containers.scale(2)
    for number in (8, 2):
        scaling = threading.Thread(target=containers.scale, args=(number,))
        begin = len(containers.ids)
        scaling.start()
        while scaling.is_alive() or len(containers.ids) < begin + 1_000:
            containers.enqueue(100, 0.02)
            # As much as they can do, and a little more.
            containers.stack.until(lambda: len(containers.ids) - containers.ended() < 300)
        scaling.join()
        assert len(containers.running()) == number
    containers.finish()
    begun = containers.begun()
    account(containers.client, begun, containers.ids)
    assert {job: times for job, times in begun.items() if times > 1} == {}
    print(f"{len(begun)} jobs")
