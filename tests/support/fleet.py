"""A fleet of workers for the fault tests."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
from redis.exceptions import RedisError

from rqstack.enqueue import get_queue
from rqstack.settings import Settings, load
from support.account import account
from support.journal import Line, count_begun, read_journal
from support.paths import PROJECTS
from support.processes import is_alive, rqstack_command, start
from support.redis_server import RedisServer
from support.waiting import until

T = TypeVar("T")
SETTINGS = {
    "RQSTACK_SECRET_KEY": "a key of the fault tests",
    "RQSTACK_MODULES": "faulty.tasks",
    "RQSTACK_DEAD_AFTER": "2",
    "RQSTACK_HEARTBEAT": "0.5",
    "RQSTACK_GRACE": "20",
    "RQSTACK_RESULT_TTL": "3600",
}


class Fleet:
    """A number of `rqstack worker run` on one Redis, and what their jobs wrote down.

    Args:
        server: The Redis.
        folder: For logs and the journal.
    """

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.client = server.client()
        self.environment = os.environ | SETTINGS | {"REDIS_URL": server.url, "PYTHONPATH": str(PROJECTS / "faulty")}
        self.environment["FAULTS_JOURNAL"] = str(folder / "journal")
        (folder / "journal").touch()
        self.log = folder / "workers.log"
        self.log.touch()
        self.running: list[subprocess.Popen[bytes]] = []
        self.draw = random.Random(20)

    # -- workers

    def start(self, number: int = 1, *, queues: Sequence[str] = ("default",), horses: int = 2, **settings: str) -> None:
        """Start supervisors; `settings` as in the environment."""
        command = rqstack_command("worker", "run", *queues, "-n", str(horses))
        for _ in range(number):
            self.running.append(start(command, self.log, env=self.environment | settings))

    def horses(self, supervisor: subprocess.Popen[bytes] | None = None) -> list[int]:
        """Processes that run jobs: of one supervisor, or of all."""
        found = []
        for each in [supervisor] if supervisor else self.running:
            with contextlib.suppress(psutil.Error):
                found += [horse.pid for child in psutil.Process(each.pid).children() for horse in child.children()]
        return found

    def forkservers(self) -> list[int]:
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
        made = get_queue(queue, connection=self.client, settings=self.settings)
        for begin in range(0, len(names), 500):
            part = names[begin : begin + 500]
            made.enqueue_many(
                [made.prepare_data(f"faulty.tasks.{task}", args=args, job_id=name, timeout=timeout) for name in part]
            )
        return list(names)

    def journal(self) -> list[Line]:
        """What the jobs wrote down, in order."""
        return read_journal(self.folder / "journal")

    def begun(self) -> Counter[str]:
        """How often each job has begun."""
        return count_begun(self.journal())

    def ended(self, queues: Sequence[str] = ("default",)) -> int:
        """How many jobs are on record as finished or failed."""
        with self.client.pipeline() as pipeline:
            for queue in queues:
                pipeline.zcard(f"rq:finished:{queue}")
                pipeline.zcard(f"rq:failed:{queue}")
            return sum(pipeline.execute())

    # -- waiting

    def until(self, condition: Callable[[], T | None], seconds: float = 150) -> T:
        """Wait until a condition is true, through a Redis that is away, and return its value."""
        return until(condition, seconds, log=lambda: f"the log ends with\n{self.tail()}", errors=(RedisError,))

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
