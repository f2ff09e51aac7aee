"""Fixtures of the worker's tests: a project with tasks, a Redis, and workers started by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import rq
from redis import Redis
from rq.job import Job

PATIENCE = 60
"""Seconds that a test waits for what should come: many times what it takes, for machines that do much besides."""


class Site:
    """A project's home, and what a person types in it.

    Args:
        folder: The home; it is made.
        server: Its Redis.
    """

    def __init__(self, folder: Path, server: Any) -> None:
        self.folder = folder
        self.server = server
        self.redis: Redis = server.client()
        self.started: list[subprocess.Popen[bytes]] = []
        self.log = folder / "worker.log"
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RQSTACK_", "REDIS_", "POSTGRES_", "DJANGO_"))
        }
        self.environment = kept | {
            "RQSTACK_HOME": str(folder),
            "REDIS_URL": server.url,
            "RQSTACK_HEARTBEAT": "1",
            "RQSTACK_DEAD_AFTER": "4",
            "RQSTACK_GRACE": "20",
            "PYTHONUNBUFFERED": "1",
        }

    def tasks(self, source: str, project: str = "shop", root: Path | None = None) -> Path:
        """Write a project with one module of tasks, `<project>.tasks`. Returns the module's file."""
        folder = (root or self.folder / "tasks") / project
        package = folder / project
        package.mkdir(parents=True, exist_ok=True)
        (folder / "pyproject.toml").write_text(f'[project]\nname = "{project}"\nversion = "1"\n')
        (package / "__init__.py").write_text("")
        (package / "tasks.py").write_text(source)
        return package / "tasks.py"

    def worker(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """`rqstack worker run …`, with its output in `self.log`."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "rqstack.cli.main", "worker", "run", *arguments],
                env=self.environment | environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process

    def run(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """`rqstack …` to its end."""
        return self._run([sys.executable, "-m", "rqstack.cli.main", *arguments], check, environment)

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

    def queue(self, name: str = "default") -> rq.Queue:
        return rq.Queue(name, connection=self.redis)

    def job(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.redis)

    def status(self, job_id: str) -> str:
        return (self.redis.hget(f"rq:job:{job_id}", "status") or b"gone").decode()

    def until(self, is_so: Callable[[], Any], what: str = "", seconds: float = PATIENCE) -> Any:
        """Wait until something is so; returns it."""
        deadline = time.monotonic() + seconds
        while not (value := is_so()):
            assert time.monotonic() < deadline, f"waited in vain: {what}\n{self.output()[-6000:]}"
            time.sleep(0.02)
        return value

    def until_ended(self, *job_ids: str) -> None:
        """Wait until jobs have finished, failed, or been stopped."""
        over = {"finished", "failed", "stopped", "canceled"}
        left = set(job_ids)

        def ended() -> bool:
            left.difference_update([job_id for job_id in left if self.status(job_id) in over])
            return not left

        self.until(ended, f"{left} to end")

    def workers(self) -> list[rq.Worker]:
        return rq.Worker.all(connection=self.redis)

    def until_idle(self, count: int) -> list[rq.Worker]:
        """Wait until so many workers are there and wait for jobs."""

        def idle() -> list[rq.Worker]:
            found = self.workers()
            return found if len(found) == count and all(w.get_state() == "idle" for w in found) else []

        found: list[rq.Worker] = self.until(idle, f"{count} idle workers")
        return found

    def error(self, job_id: str) -> str:
        """The last line of the exception that a job's result holds."""
        return (self.job(job_id).latest_result().exc_string or "").strip().splitlines()[-1]

    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else "(no log)"

    def metrics(self) -> dict[tuple[str, ...], float]:
        """What the workers have counted."""
        found = self.redis.hgetall("rqstack:metrics")
        return {tuple(json.loads(name)): float(value) for name, value in found.items()}

    def horses(self, process: subprocess.Popen[bytes]) -> set[int]:
        """Process ids of the horses of a worker: the children of its templates."""
        try:
            templates = psutil.Process(process.pid).children()
            return {horse.pid for template in templates for horse in template.children()}
        except psutil.NoSuchProcess:
            return set()

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """Stop a worker. Returns its exit code."""
        process.send_signal(number)
        return process.wait(PATIENCE)

    def close(self) -> None:
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
        self.redis.close()


@pytest.fixture
def site(tmp_path: Path, redis_server: Any, connection: Redis) -> Iterator[Site]:
    """A home and an empty Redis, for one test."""
    made = Site(tmp_path, redis_server)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared_site(redis_server: Any) -> Iterator[Site]:
    """A home and a Redis of its own, for all tests of a module."""
    server = type(redis_server)()
    with tempfile.TemporaryDirectory(prefix="rqstack-site-") as folder:
        server.start()
        made = Site(Path(folder), server)
        try:
            yield made
        finally:
            made.close()
            server.close()


@pytest.fixture
def own_site(tmp_path: Path, own_redis: Any) -> Iterator[Site]:
    """A home and a Redis that the test may stop, for one test."""
    made = Site(tmp_path, own_redis)
    try:
        yield made
    finally:
        made.close()
