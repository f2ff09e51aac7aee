"""Real workers that are killed, stopped and cut off; afterwards every job is accounted for."""

from __future__ import annotations

import base64
import contextlib
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from rqstack.settings import Settings, load

SITE = Path(__file__).resolve().parent / "site"
SETTINGS = {
    "RQSTACK_SECRET_KEY": "a key of the fault tests",
    "RQSTACK_MODULES": "faulty",
    "RQSTACK_DEAD_AFTER": "2",
    "RQSTACK_HEARTBEAT": "0.5",
    "RQSTACK_GRACE": "20",
    "RQSTACK_RESULT_TTL": "3600",
}


class Line(NamedTuple):
    """What a task wrote down."""

    what: str
    job: str
    pid: int
    time: float


def read_journal(path: Path) -> list[Line]:
    lines = (line.split() for line in path.read_text().splitlines())
    return [Line(what, job, int(pid), float(when)) for what, job, pid, when in lines]


class Fleet:
    """A number of `rqstack worker run` on one Redis, and what their jobs wrote down.

    Args:
        server: The Redis.
        folder: For logs and the journal.
    """

    def __init__(self, server: Any, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.client: Redis = server.client()
        self.environment = os.environ | SETTINGS | {"REDIS_URL": server.url, "PYTHONPATH": str(SITE)}
        self.environment["FAULTS_JOURNAL"] = str(folder / "journal")
        (folder / "journal").touch()
        self.log = folder / "workers.log"
        self.log.touch()
        self.running: list[subprocess.Popen[bytes]] = []
        self.draw = random.Random(20)

    # -- workers

    def start(self, number: int = 1, *, queues: Sequence[str] = ("default",), horses: int = 2, **settings: str) -> None:
        """Start supervisors; `settings` as in the environment."""
        command = [sys.executable, "-m", "rqstack.cli.main", "worker", "run", *queues, "-n", str(horses)]
        for _ in range(number):
            with self.log.open("ab") as file:
                environment = self.environment | settings
                self.running.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))

    def horses(self, supervisor: subprocess.Popen[bytes] | None = None) -> list[int]:
        """Processes that run jobs: of one supervisor, or of all."""
        found = []
        for each in [supervisor] if supervisor else self.running:
            with contextlib.suppress(psutil.Error):
                found += [horse.pid for child in psutil.Process(each.pid).children() for horse in child.children()]
        return found

    def templates(self) -> list[int]:
        """Processes that fork the horses."""
        found = []
        for each in self.running:
            with contextlib.suppress(psutil.Error):
                found += [child.pid for child in psutil.Process(each.pid).children() if child.children()]
        return found

    def tree(self, supervisor: subprocess.Popen[bytes]) -> list[int]:
        """A supervisor and all its processes."""
        return [supervisor.pid, *(child.pid for child in psutil.Process(supervisor.pid).children(recursive=True))]

    def kill(self, supervisor: subprocess.Popen[bytes]) -> None:
        """Kill the supervisor alone; its tree has to die by itself."""
        tree = self.tree(supervisor)
        supervisor.kill()
        supervisor.wait()
        self.running.remove(supervisor)
        self.until(lambda: not any(map(is_alive, tree)), 20)

    def stop(self, seconds: float = 60) -> None:
        """End all warmly, and see that they leave in peace."""
        for supervisor in self.running:
            supervisor.terminate()
        assert [supervisor.wait(seconds) for supervisor in self.running] == [0] * len(self.running), self.tail()
        self.running.clear()

    def close(self) -> None:
        trees = []
        for supervisor in self.running:
            with contextlib.suppress(psutil.Error):
                trees += self.tree(supervisor)
        for pid in trees:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for supervisor in self.running:
            supervisor.wait()
        self.client.close()

    # -- jobs

    @property
    def settings(self) -> Settings:
        """A producer's settings: it signs with the workers' key."""
        return load(Settings, secret_key=SETTINGS["RQSTACK_SECRET_KEY"])

    def enqueue(
        self,
        names: Sequence[str],
        task: str = "work",
        args: tuple[Any, ...] = (),
        *,
        queue: str = "default",
        timeout: int = 60,
    ) -> list[str]:
        """Enqueue one job of each name by the producer's call; the name is its id. Returns the names."""
        from rqstack.enqueue import get_queue

        made = get_queue(queue, connection=self.client, settings=self.settings)
        for begin in range(0, len(names), 500):
            part = names[begin : begin + 500]
            made.enqueue_many(
                [made.prepare_data(f"faulty.{task}", args=args, job_id=name, timeout=timeout) for name in part]
            )
        return list(names)

    def journal(self) -> list[Line]:
        """What the jobs wrote down, in order."""
        return read_journal(self.folder / "journal")

    def begun(self) -> Counter[str]:
        """How often each job has begun."""
        return Counter(line.job for line in self.journal() if line.what == "begin")

    def ended(self, queues: Sequence[str] = ("default",)) -> int:
        """How many jobs are on record as finished or failed."""
        with self.client.pipeline() as pipeline:
            for queue in queues:
                pipeline.zcard(f"rq:finished:{queue}")
                pipeline.zcard(f"rq:failed:{queue}")
            return sum(pipeline.execute())

    # -- waiting

    def until(self, what: Callable[[], Any], seconds: float = 150) -> Any:
        """Wait until something is true, through a Redis that is away, and return it."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(RedisError):
                if found := what():
                    return found
            assert time.monotonic() < deadline, f"not within {seconds} s; the log ends with\n{self.tail()}"
            time.sleep(0.02)

    def pause(self, least: float, most: float) -> None:
        """Let a random time pass, so that a fault comes at any point of a job."""
        time.sleep(self.draw.uniform(least, most))

    def said(self, words: str) -> int:
        """How often the workers' log says something."""
        return self.log.read_text(errors="replace").count(words)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])

    # -- the account

    def finish(self, ids: Sequence[str], queues: Sequence[str] = ("default",), failed: Sequence[str] = ()) -> None:
        """Wait until all jobs have ended and the dead are taken over, end the workers, and account for every job."""
        self.until(lambda: self.ended(queues) >= len(ids) + len(failed))
        self.until(lambda: self.client.zcard("rqstack:supervisors") == len(self.running))
        self.stop()
        account(self.client, self.begun(), ids, queues, failed)

    @property
    def crashes(self) -> dict[str, int]:
        """Jobs that are held to have ended their process, and how often."""
        keys = [key.decode() for key in self.client.scan_iter("rqstack:crashes:*", count=10_000)]
        return {key.removeprefix("rqstack:crashes:"): int(self.client.hget(key, "count") or 0) for key in keys}


def account(
    client: Redis,
    begun: Mapping[str, int],
    ids: Sequence[str],
    queues: Sequence[str] = ("default",),
    failed: Sequence[str] = (),
) -> None:
    """Every job ran and is recorded once, and nothing is left anywhere. To be called when all workers have ended.

    Args:
        client: Of Redis.
        begun: How often each job has begun.
        ids: Jobs that must have finished.
        queues: All queues.
        failed: Jobs that must have failed.
    """
    assert [job for job in [*ids, *failed] if not begun.get(job)] == [], "these never ran"
    with client.pipeline() as pipeline:
        for job in [*ids, *failed]:
            pipeline.hget(f"rq:job:{job}", "status")
        states = dict(zip([*ids, *failed], pipeline.execute(), strict=True))
        assert {job: states[job] for job in ids if states[job] != b"finished"} == {}
        assert {job: states[job] for job in failed if states[job] != b"failed"} == {}
        for job in ids:
            pipeline.xrange(f"rq:results:{job}")
        results = dict(zip(ids, pipeline.execute(), strict=True))
    wrong = {}
    for job, entries in results.items():
        # type 1 is a success; the signature stands behind the pickle.
        found = [(e[b"type"], pickle.loads(base64.b64decode(e[b"return_value"]))) for _, e in entries]
        if found != [(b"1", job)]:
            wrong[job] = found
    assert wrong == {}, "these are not recorded exactly once"
    with client.pipeline() as pipeline:
        for queue in queues:
            for registry in ("finished", "failed"):
                pipeline.zrange(f"rq:{registry}:{queue}", 0, -1)
        recorded = pipeline.execute()
    assert sorted(name.decode() for names in recorded[::2] for name in names) == sorted(ids)
    assert sorted(name.decode() for names in recorded[1::2] for name in names) == sorted(failed)
    assert left(client) == {}


def left(client: Redis) -> dict[str, Any]:
    """What should not be there when all jobs are done and all workers gone."""
    # RQ keeps the record of a worker that has ended for a minute; its place among the workers is gone.
    patterns = ("rq:wip:*", "rq:queue:*", "rq:execution*", "rq:workers*", "rqstack:claim:*", "rqstack:running:*")
    found: dict[str, Any] = {}
    for pattern in patterns:
        for key in client.scan_iter(pattern, count=10_000):
            found[key.decode()] = client.type(key)
    if supervisors := client.zrange("rqstack:supervisors", 0, -1):
        found["rqstack:supervisors"] = supervisors
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def fleet(own_redis: Any, tmp_path: Path) -> Iterator[Fleet]:
    """Workers on a Redis of their own; none is started yet."""
    fleet = Fleet(own_redis, tmp_path)
    try:
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(name="account")
def _account() -> Callable[..., None]:
    """The function `account`."""
    return account


@pytest.fixture(name="read_journal")
def _read_journal() -> Callable[[Path], list[Line]]:
    """The function `read_journal`."""
    return read_journal


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and isinstance(fleet, Fleet):
        report.sections.append(("the workers' log", fleet.tail()))
    return report
