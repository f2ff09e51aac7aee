"""RQ's own producers, workers and schedulers beside rqstack's, on one Redis: every job ends once, whoever runs it.

Queues: `ours` has workers of rqstack only, `theirs` workers of RQ only, `both` has either.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from rq import Callback, Queue, RateLimit, Retry
from rq.command import send_stop_execution_command, send_stop_job_command
from rq.job import Job
from rq.registry import ReadyJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from support.hooks import Hooks
from support.processes import rqstack_command, start
from support.redis_server import RedisServer
from support.worker_site import Site

RQ = str(Path(sys.executable).parent / "rq")
CRON_CONFIG = """
from rq.cron import register
from harbour.tasks import work
register(work, queue_name="both", interval=1)
register(work, queue_name="both", cron="* * * * *")
"""


class Fleet(Site):
    """A home with workers and schedulers of both kinds."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        super().__init__(folder, server)
        self.journal = folder / "journal"
        self.journal.touch()
        package = self.add_project("harbour")
        self.environment |= {"HARBOUR_JOURNAL": str(self.journal), "PYTHONPATH": str(package.parent)}

    def ours(self, *queues: str, count: int = 2) -> None:
        """A worker of rqstack."""
        self.worker(*queues, "--processes", str(count), "--name", "rqstack")

    def theirs(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command of RQ that runs until it is stopped."""
        first, *others = arguments
        return self._start([RQ, first, "--url", self.server.url, *others])

    def scheduler(self) -> None:
        """A scheduler of rqstack."""
        self._start(rqstack_command("scheduler"))

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        self.started.append(start(command, self.log, env=self.environment, cwd=self.folder))
        return self.started[-1]

    def until_there(self, number: int) -> None:
        """Wait until so many workers are on record."""
        self.until(lambda: len(self.workers()) == number, f"{number} workers")

    def lines(self) -> list[list[str]]:
        """What the jobs have written down: what, job id, process."""
        return [line.split() for line in self.journal.read_text().splitlines()]

    def notes(self, what: str) -> Counter[str]:
        """How often each job has written something."""
        return Counter(job_id for said, job_id, _ in self.lines() if said == what)

    def until_begun(self, job_id: str, times: int = 1) -> None:
        self.until(lambda: self.notes("begin")[job_id] == times, f"{job_id} to run")

    def left(self) -> dict[str, Any]:
        """What is not there when all jobs have ended."""
        found: dict[str, Any] = {}
        for pattern in (
            "rq:wip:*",
            "rq:deferred:*",
            "rq:ready:*",
            "rq:scheduled:*",
            "rq:execution*",
            "rqstack:claim:*",
        ):
            found |= {key.decode(): self.redis.type(key) for key in self.redis.scan_iter(pattern, count=1000)}
        for key in self.redis.scan_iter("rq:queue:*", count=1000):
            if self.redis.type(key) == b"list":  # not the time at which RQ has first seen a job on its way
                found[key.decode()] = self.redis.lrange(key, 0, -1)
        for key in self.redis.scan_iter("rq:rl:*:*"):
            found[key.decode()] = self.redis.zrange(key, 0, -1)
        return found


@pytest.fixture
def fleet(tmp_path: Path, redis_server: RedisServer, connection: Redis) -> Iterator[Fleet]:
    made = Fleet(tmp_path, redis_server)
    try:
        yield made
    finally:
        made.close()


def test_every_job_ends_once(fleet: Fleet) -> None:
    """Jobs of every kind, by RQ's queue, with two kinds of worker on each queue and two kinds of scheduler."""
    fleet.ours("ours", "both")
    fleet.theirs("worker", "--with-scheduler", "theirs", "both", "ours")
    fleet.theirs("worker-pool", "--num-workers", "2", "both", "theirs")
    fleet.scheduler()
    fleet.until_there(5)
    callbacks = {"on_success": Callback("harbour.tasks.succeeded"), "on_failure": Callback("harbour.tasks.failed")}
    kinds: dict[str, tuple[str, str, dict[str, Any]]] = {
        "plain": ("work", "finished", {}),
        "callback": ("work", "finished", callbacks),
        "failing": ("fail", "failed", callbacks),
        "retry": ("fail_once", "finished", {"retry": Retry(2)}),
        "late retry": ("fail_once", "finished", {"retry": Retry(2, interval=1)}),
        "limited": ("work", "finished", {"rate_limit": RateLimit("quay", 2)}),
    }
    expected, kind_of = {}, {}
    for queue in ("ours", "theirs", "both"):
        for _ in range(4):
            for kind, (task, status, options) in kinds.items():
                job = fleet.queue(queue).enqueue(f"harbour.tasks.{task}", **options)
                expected[job.id], kind_of[job.id] = status, kind
            delayed = fleet.queue(queue).enqueue_in(timedelta(seconds=1), "harbour.tasks.work")
            expected[delayed.id], kind_of[delayed.id] = "finished", "delayed"
    fleet.until_ended(*expected)
    assert {job_id: fleet.status(job_id) for job_id in expected} == expected
    runs = {job_id: 2 if "retry" in kind else 1 for job_id, kind in kind_of.items()}
    assert {job_id: fleet.notes("begin")[job_id] for job_id in expected} == runs
    assert fleet.notes("succeeded") == {job_id: 1 for job_id, kind in kind_of.items() if kind == "callback"}
    assert fleet.notes("failed") == {job_id: 1 for job_id, kind in kind_of.items() if kind == "failing"}
    for queue in ("ours", "theirs", "both"):
        made = fleet.queue(queue)
        assert len(made.finished_job_registry) == 24
        assert len(made.failed_job_registry) == 4
    fleet.until(lambda: fleet.left() == {}, f"nothing to be left of {fleet.left()}")


def test_dependents_across_both_kinds(fleet: Fleet) -> None:
    fleet.ours("ours")
    fleet.theirs("worker", "theirs")
    fleet.until_there(3)
    chains = []
    for first, second in (("ours", "theirs"), ("theirs", "ours")) * 5:
        chain: list[Job] = [fleet.queue(first).enqueue("harbour.tasks.work", 0.05)]
        for queue in (second, first, second):
            chain.append(fleet.queue(queue).enqueue("harbour.tasks.work", depends_on=chain[-1]))
        chains.append([job.id for job in chain])
    ids = [job_id for chain in chains for job_id in chain]

    def ended() -> bool:
        # A dependent on whose registry two workers meet is left to the next cleaning by RQ, which comes in minutes.
        for queue in ("ours", "theirs"):
            ReadyJobRegistry(queue=fleet.queue(queue)).cleanup()
        return {fleet.status(job_id) for job_id in ids} == {"finished"}

    fleet.until(ended, "the chains to end")
    assert {job_id: fleet.status(job_id) for job_id in ids} == dict.fromkeys(ids, "finished")
    assert fleet.notes("begin") == dict.fromkeys(ids, 1)
    order = [(what, job_id) for what, job_id, _ in fleet.lines()]
    for chain in chains:
        for before, after in pairwise(chain):
            assert order.index(("end", before)) < order.index(("begin", after))
    fleet.until(lambda: fleet.left() == {}, f"nothing to be left of {fleet.left()}")


def test_a_dependent_of_a_failed_job_of_the_other_kind(fleet: Fleet) -> None:
    fleet.ours("ours")
    fleet.theirs("worker", "theirs")
    fleet.until_there(3)
    for first, second in (("ours", "theirs"), ("theirs", "ours")):
        failing = fleet.queue(first).enqueue("harbour.tasks.fail")
        waiting = fleet.queue(second).enqueue("harbour.tasks.work", depends_on=failing)
        fleet.until_ended(failing.id)
        assert fleet.status(waiting.id) == "deferred"
        assert fleet.queue(second).deferred_job_registry.get_job_ids() == [waiting.id]


def test_a_rate_limit_is_shared(fleet: Fleet) -> None:
    fleet.ours("both", count=3)
    fleet.theirs("worker-pool", "--num-workers", "3", "both")
    fleet.until_there(6)
    limit = RateLimit("lock", 2)
    ids = [fleet.queue("both").enqueue("harbour.tasks.work", 0.02, rate_limit=limit).id for _ in range(30)]
    fleet.until_ended(*ids)
    assert {job_id: fleet.status(job_id) for job_id in ids} == dict.fromkeys(ids, "finished")
    running: set[str] = set()
    most = 0
    for what, job_id, _ in fleet.lines():
        (running.add if what == "begin" else running.discard)(job_id)
        most = max(most, len(running))
    assert most == 2
    assert fleet.notes("begin") == dict.fromkeys(ids, 1)
    fleet.until(lambda: fleet.left() == {}, f"nothing to be left of {fleet.left()}")


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_commands_reach_both_kinds(fleet: Fleet, kind: str) -> None:
    fleet.ours("ours", count=1)
    fleet.theirs("worker", "theirs")
    fleet.until_there(2)
    job = fleet.queue(kind).enqueue("harbour.tasks.work", 60)
    fleet.until_begun(job.id)
    fleet.until(lambda: fleet.job(job.id).worker_name, "the worker's name")
    send_stop_job_command(fleet.redis, job.id)
    fleet.until(lambda: fleet.status(job.id) == "stopped", "the stop")
    other = fleet.queue(kind).enqueue("harbour.tasks.work", 60)
    fleet.until_begun(other.id)
    (execution,) = fleet.until(lambda: fleet.job(other.id).get_executions(), "the execution")
    send_stop_execution_command(fleet.redis, other.id, execution.id)
    fleet.until(lambda: fleet.status(other.id) == "stopped", "the stop")
    last = fleet.queue(kind).enqueue("harbour.tasks.work")
    fleet.until_ended(last.id)
    assert fleet.status(last.id) == "finished"
    fleet.until(lambda: fleet.left() == {}, f"nothing to be left of {fleet.left()}")


def test_two_executions_of_one_job(fleet: Fleet) -> None:
    """RQ lets a job that runs be enqueued again: both kinds then run it side by side, and each ends its own part."""
    fleet.ours("both", count=1)
    fleet.theirs("worker", "both")
    fleet.until_there(2)
    queue = fleet.queue("both")
    job = queue.enqueue("harbour.tasks.work", 60)
    fleet.until_begun(job.id)
    queue.enqueue_job(fleet.job(job.id))
    fleet.until_begun(job.id, 2)
    first, second = fleet.until(lambda: len(found := fleet.job(job.id).get_executions()) == 2 and found, "two")
    assert {first.worker_name == "rqstack", second.worker_name == "rqstack"} == {True, False}
    assert len(StartedJobRegistry(queue=queue)) == 2
    send_stop_execution_command(fleet.redis, job.id, first.id)
    fleet.until(lambda: [each.id for each in fleet.job(job.id).get_executions()] == [second.id], "the first to end")
    send_stop_execution_command(fleet.redis, job.id, second.id)
    fleet.until(lambda: fleet.left() == {}, f"nothing to be left of {fleet.left()}")
    after = queue.enqueue("harbour.tasks.work")
    fleet.until_ended(after.id)


def test_rq_s_cleaning_fails_the_job_of_a_dead_rq_worker_alone(fleet: Fleet) -> None:
    fleet.ours("ours", count=1)
    theirs = fleet.theirs("worker", "theirs")
    fleet.until_there(2)
    held = {
        kind: fleet.queue(kind).enqueue("harbour.tasks.work", 2 if kind == "ours" else 60)
        for kind in ("ours", "theirs")
    }
    for job in held.values():
        fleet.until_begun(job.id)
    tree = [psutil.Process(theirs.pid), *psutil.Process(theirs.pid).children(recursive=True)]
    for process in tree:
        os.kill(process.pid, signal.SIGKILL)
    theirs.wait()
    registry = StartedJobRegistry(queue=fleet.queue("theirs"))
    ((member, _),) = fleet.redis.zrange(registry.key, 0, -1, withscores=True)
    fleet.redis.zadd(registry.key, {member: 1})  # as if its minutes were over
    for kind in held:
        StartedJobRegistry(queue=fleet.queue(kind)).cleanup()
    assert fleet.status(held["theirs"].id) == "failed"
    assert (
        "AbandonedJobError" in fleet.error(held["theirs"].id) or "abandoned" in fleet.error(held["theirs"].id).lower()
    )
    assert fleet.status(held["ours"].id) == "started"
    fleet.until_ended(held["ours"].id)
    assert fleet.status(held["ours"].id) == "finished"
    assert fleet.notes("begin") == {job.id: 1 for job in held.values()}


def test_rq_s_cron_beside_ours(fleet: Fleet) -> None:
    from rqstack.scheduling import Scheduler

    (fleet.folder / "cron_config.py").write_text(CRON_CONFIG)
    with Scheduler(connection=fleet.redis) as scheduler:
        scheduler.cron("both", "* * * * * *", "harbour.tasks.work", name="often")
    fleet.ours("both", count=1)
    fleet.theirs("worker", "both")
    fleet.theirs("cron", str(fleet.folder / "cron_config.py"))
    fleet.scheduler()

    def both_fired() -> bool:
        ours = [job_id for job_id in fleet.notes("end") if job_id.startswith("cron-")]
        return len(ours) >= 3 and len(fleet.notes("end")) - len(ours) >= 3

    fleet.until(both_fired, "firings of both")
    assert set(fleet.notes("end").values()) == {1}
    assert "Error" not in fleet.output()


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_json_payloads_of_rq_s_producers(fleet: Fleet, kind: str) -> None:
    """A worker reads what its own serializer wrote; of another, the job fails with a reason, and the next one runs."""
    fleet.environment["RQSTACK_SERIALIZER"] = "json"
    fleet.ours("ours", count=1)
    fleet.theirs("worker", "--serializer", "rq.serializers.JSONSerializer", "theirs")
    fleet.until_there(2)
    good = Queue(kind, connection=fleet.redis, serializer=JSONSerializer)
    pickled = fleet.queue(kind).enqueue("harbour.tasks.work", 0.0)
    job = good.enqueue("harbour.tasks.work", 0.0)
    fleet.until_ended(pickled.id, job.id)
    assert (fleet.status(pickled.id), fleet.status(job.id)) == ("failed", "finished")


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    made = Hooks()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["ours", "theirs"])
def test_webhooks(fleet: Fleet, hooks: Hooks, kind: str) -> None:
    """Sent once by either kind: when a job has finished, and when it has failed for good."""
    fleet.ours("ours", count=1)
    fleet.theirs("worker", "theirs")
    fleet.until_there(2)
    queue = fleet.queue(kind)

    def both(path: str) -> list[Webhook]:
        headers = {"X-Harbour": path}
        return [
            Webhook(hooks.url(path), "finished", method="POST", headers=headers),
            Webhook(hooks.url(path), "failed", method="POST", headers=headers),
        ]

    jobs = {
        "good": queue.enqueue("harbour.tasks.work", webhooks=both("good")),
        "bad": queue.enqueue("harbour.tasks.fail", webhooks=both("bad")),
        "again": queue.enqueue("harbour.tasks.fail_once", retry=Retry(1), webhooks=both("again")),
        "bad-again": queue.enqueue("harbour.tasks.fail", retry=Retry(1), webhooks=both("bad-again")),
        "broken": queue.enqueue("harbour.tasks.work", webhooks=both("broken")),
    }
    fleet.until_ended(*(job.id for job in jobs.values()))
    fleet.until(lambda: len(hooks.received) >= 5, "the webhooks")
    last = queue.enqueue("harbour.tasks.work")
    fleet.until_ended(last.id)  # what ended before has sent its webhooks
    got = {path: (header, body["job_id"], body["status"]) for path, header, body in hooks.received}
    assert got == {
        f"/{name}": (name, job.id, "failed" if name.startswith("bad") else "finished") for name, job in jobs.items()
    }
    assert len(hooks.received) == 5
    for path, _, body in hooks.received:
        assert ("ValueError: no" in (body.get("exc_info") or "")) == path.startswith("/bad")
    assert fleet.status(jobs["broken"].id) == "finished"
