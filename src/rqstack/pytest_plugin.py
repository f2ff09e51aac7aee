"""Pytest fixtures for projects that use rqstack: inspect and run enqueued jobs.

- `run_jobs()` runs the queued jobs in the test's process.
- `enqueued(task)` returns the queued and scheduled jobs.
- `rqstack_connection` is the Redis that both use. It is empty at the start of each test.

The fixtures start a Redis server with `redis-server` or `valkey-server`. To use another one, override the fixture
`rqstack_redis_url` with the URL of an empty database, for example of `fakeredis.TcpFakeServer`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rqstack.transport import keys
from rqstack.transport.replies import decode_all

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue
    from rq.job import Job

    from rqstack.tasks import Task

SERVERS = ("redis-server", "valkey-server")
MAX_JOBS = 10_000
"""Jobs that one `run_jobs()` runs, which stops a job that keeps enqueuing itself."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A queued or scheduled job.

    Args:
        name: The name of its task.
        at: Due time of a scheduled job, else None.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    at: datetime | None
    job: Job


@pytest.fixture(scope="session")
def rqstack_redis_url() -> Iterator[str]:
    """The URL of a Redis server started for the tests. Override it to use another, empty Redis."""
    program = next((found for name in SERVERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.fail(
            f"rqstack's fixtures need {' or '.join(SERVERS)} on PATH, or a fixture rqstack_redis_url that returns "
            "the URL of an empty Redis.",
            pytrace=False,
        )
    # Not in pytest's tmp_path, because the path of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="rqs-"))
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # The credentials override those of a project's .env. This Redis accepts any.
        yield f"unix://default:tests@{socket}"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def rqstack_connection(rqstack_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A client of the tests' Redis. During the test `get_settings()`, and so every task, uses that Redis."""
    from redis import Redis

    from rqstack.settings import get_settings

    client = Redis.from_url(rqstack_redis_url)
    _wait_for_redis(client, rqstack_redis_url)
    if client.dbsize():
        pytest.fail("the Redis at rqstack_redis_url is not empty. Give the tests their own database.", pytrace=False)
    monkeypatch.setenv("REDIS_URL", rqstack_redis_url)
    get_settings.cache_clear()
    try:
        yield client
    finally:
        client.flushdb()
        client.close()
        # monkeypatch restores the environment after this; the next get_settings() reads it again.
        get_settings.cache_clear()


@pytest.fixture
def enqueued(rqstack_connection: Redis) -> Callable[..., list[Enqueued]]:
    """`enqueued(task=None, queue=None)`: per queue, the queued jobs in order, then the scheduled ones by time.

    The task is a task or its name.
    """

    def find(task: Task[..., Any] | str | None = None, queue: str | None = None) -> list[Enqueued]:
        name = getattr(task, "name", task)
        jobs = []
        for each in _queues(rqstack_connection):
            if queue is None or queue == each.name:
                jobs += [job for job in _pending_jobs(each) if name is None or job.name == name]
        return jobs

    return find


@pytest.fixture
def run_jobs(rqstack_connection: Redis) -> Callable[..., list[Job]]:
    """`run_jobs(*queues, scheduled=False, check=True)`: run the queued jobs in this process until none is left.

    This includes jobs that these jobs enqueue. Rate limits do not apply, so that a test does not have to wait.

    Args:
        queues: Names in order of priority. Default: all.
        scheduled: Also run delayed jobs and retries, without waiting until they are due.
        check: Raise AssertionError with the tracebacks if a job failed after its last retry.

    Returns:
        The jobs that ran, in order.
    """

    def run(*queues: str, scheduled: bool = False, check: bool = True) -> list[Job]:
        return _run_jobs(rqstack_connection, queues, scheduled, check)

    return run


def _wait_for_redis(client: Redis, url: str) -> None:
    from redis.exceptions import RedisError

    from rqstack.transport.client import explain

    deadline = time.monotonic() + 10
    while True:
        try:
            client.ping()
            return
        except RedisError as error:
            if time.monotonic() > deadline:
                pytest.fail(str(explain(error, url)), pytrace=False)
            time.sleep(0.01)


def _queues(connection: Redis, names: tuple[str, ...] = ()) -> list[Queue]:
    from rqstack.enqueue import get_queue

    members: Any = connection.smembers(keys.QUEUES)
    known = sorted(key.removeprefix(keys.QUEUE) for key in decode_all(members))
    return [get_queue(name, connection=connection) for name in names or known]


def _pending_jobs(queue: Queue) -> Iterator[Enqueued]:
    registry = queue.scheduled_job_registry
    for job in [*queue.jobs, *(queue.fetch_job(job_id) for job_id in registry.get_job_ids())]:
        if job is None:
            continue
        at = None
        with suppress(Exception):
            at = registry.get_scheduled_time(job)
        name = str(getattr(job.instance, "name", job.func_name))
        yield Enqueued(name, tuple(job.args), dict(job.kwargs), queue.name, at, job)


def _run_jobs(connection: Redis, names: tuple[str, ...], scheduled: bool, check: bool) -> list[Job]:
    from rq import SimpleWorker

    from rqstack.limiting import unlimited
    from rqstack.registry.discovery import resolve
    from rqstack.security import get_job_serializer

    ran: list[Job] = []
    failures: list[str] = []
    worker: Any = None
    with unlimited():
        while True:
            queues = _queues(connection, names)
            if queues and worker is None:
                worker = SimpleWorker(
                    queues, name=f"tests-{os.getpid()}-{time.monotonic_ns()}", connection=connection,
                    serializer=get_job_serializer(),
                )  # fmt: skip
                worker.register_birth()
            dequeued = (
                worker.queue_class.dequeue_any(queues, None, connection, serializer=get_job_serializer())
                if queues
                else None
            )
            if dequeued is None:
                moved = sum(_enqueue_scheduled(queue) for queue in queues) if scheduled else 0
                if not moved:
                    break
                continue
            job, queue = dequeued
            if len(ran) == MAX_JOBS:
                raise AssertionError(f"run_jobs() stopped after {MAX_JOBS} jobs. Does a job enqueue itself?")
            resolve(job.func_name, job.instance)
            worker.execute_job(job, queue)
            ran.append(job)
            job.refresh()
            if job.is_failed:
                result = job.latest_result()
                failures.append(f"{job.func_name} ({job.id}):\n{result.exc_string if result else 'no result is kept'}")
    if worker is not None:
        worker.register_death()
    if check and failures:
        raise AssertionError(f"{len(failures)} of {len(ran)} jobs failed.\n" + "\n".join(failures))
    return ran


def _enqueue_scheduled(queue: Queue) -> int:
    """Enqueue the scheduled jobs of a queue, ordered by due time. Returns their number."""
    registry = queue.scheduled_job_registry
    ids = registry.get_job_ids()
    for job_id in ids:
        job = queue.fetch_job(job_id)
        registry.connection.zrem(registry.key, job_id)
        if job is not None:
            queue.enqueue_job(job)
    return len(ids)
