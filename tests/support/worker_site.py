"""The home of a project in the worker's tests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
from rq import Queue, Worker
from rq.job import Job
from rq.worker import BaseWorker

from support.processes import environment_without, rqstack_command, start
from support.projects import copy_project
from support.redis_server import RedisServer
from support.waiting import until

T = TypeVar("T")
PATIENCE = 60
"""Seconds that a test waits for an event: many times what it takes, for busy machines."""


class Site:
    """A project's home, and what a person types in it.

    Args:
        folder: The home; it is made.
        server: Its Redis.
    """

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self.server = server
        self.redis = server.client()
        self.started: list[subprocess.Popen[bytes]] = []
        self.log = folder / "worker.log"
        kept = environment_without("RQSTACK_", "REDIS_", "POSTGRES_", "DJANGO_")
        self.environment = kept | {
            "RQSTACK_HOME": str(folder),
            "REDIS_URL": server.url,
            "RQSTACK_HEARTBEAT": "1",
            "RQSTACK_DEAD_AFTER": "4",
            "RQSTACK_GRACE": "20",
            "RQSTACK_PRIVATE_HOSTS": "127.0.0.1",  # where the tests' web servers are
            "PYTHONUNBUFFERED": "1",
        }

    def add_project(self, name: str = "shop") -> Path:
        """Copy a project of tests/projects; returns the folder of its package."""
        return copy_project(name, self.folder / "tasks")

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """`rqstack worker run …`, with its output in `self.log`."""
        command = rqstack_command("worker", "run", *arguments)
        self.started.append(start(command, self.log, env=self.environment | environment, cwd=self.folder))
        return self.started[-1]

    def run(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """`rqstack …` to its end."""
        return self._run(rqstack_command(*arguments), check, environment)

    def rq(self, *arguments: str, check: bool = True) -> str:
        """RQ's own command line."""
        first, *others = arguments
        program = str(Path(sys.executable).parent / "rq")
        return self._run([program, first, "--url", self.server.url, *others], check, {}).stdout

    def _run(self, command: list[str], check: bool, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def queue(self, name: str = "default") -> Queue:
        """A queue without a serializer of rqstack, as any RQ application has it."""
        return Queue(name, connection=self.redis)

    def job(self, job_id: str) -> Job:
        """A job, read anew."""
        return Job.fetch(job_id, connection=self.redis)

    def status(self, job_id: str) -> str:
        """The status on record, or `gone`."""
        found = self.redis.hget(f"rq:job:{job_id}", "status") or b"gone"
        assert isinstance(found, bytes)
        return found.decode()

    def until(self, condition: Callable[[], T | None], what: str = "", seconds: float = PATIENCE) -> T:
        """Wait until a condition is true, and return its value."""
        return until(condition, seconds, what, log=lambda: self.output()[-6000:])

    def until_ended(self, *job_ids: str) -> None:
        """Wait until jobs have finished, failed, or been stopped."""
        over = {"finished", "failed", "stopped", "canceled"}
        left = set(job_ids)

        def ended() -> bool:
            left.difference_update([job_id for job_id in left if self.status(job_id) in over])
            return not left

        self.until(ended, f"{left} to end")

    def workers(self) -> list[BaseWorker]:
        """The workers on record."""
        return Worker.all(connection=self.redis)

    def until_idle(self, count: int) -> list[BaseWorker]:
        """Wait until that number of workers is there and all wait for jobs."""

        def idle() -> list[BaseWorker]:
            found = self.workers()
            return found if len(found) == count and all(w.get_state() == "idle" for w in found) else []

        return self.until(idle, f"{count} idle workers")

    def error(self, job_id: str) -> str:
        """The last line of the exception that a job's result holds."""
        result = self.job(job_id).latest_result()
        assert result is not None
        return (result.exc_string or "").strip().splitlines()[-1]

    def output(self) -> str:
        """The workers' log."""
        return self.log.read_text(errors="replace") if self.log.exists() else "(no log)"

    def metrics(self) -> dict[tuple[str, ...], float]:
        """What the workers have counted."""
        found = self.redis.hgetall("rqstack:metrics")
        return {tuple(json.loads(name)): float(value) for name, value in found.items()}

    def horses(self, process: subprocess.Popen[bytes]) -> set[int]:
        """Process ids of the horses of a worker: the children of its forkservers."""
        try:
            forkservers = psutil.Process(process.pid).children()
            return {horse.pid for forkserver in forkservers for horse in forkserver.children()}
        except psutil.NoSuchProcess:
            return set()

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """Stop a worker. Returns its exit code."""
        process.send_signal(number)
        return process.wait(PATIENCE)

    def close(self) -> None:
        """Kill all workers with their processes."""
        for process in self.started:
            if process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait()
                for child in children:
                    try:
                        child.kill()
                    except psutil.NoSuchProcess:
                        continue
                # One that still waits in Redis would be given the first job of the next test.
                psutil.wait_procs(children, timeout=20)
        self.redis.close()
