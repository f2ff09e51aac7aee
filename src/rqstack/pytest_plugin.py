"""Fixtures for the tests of projects that use rqstack: run what was enqueued, and look at what was.

- `run_jobs()` runs the queued jobs here, in the test's process.
- `enqueued(task)` gives the jobs that wait.
- `rqstack_connection` is the Redis that both use. It is empty at the start of each test.

The Redis is a server of its own, started from `redis-server` or `valkey-server`. To use another, override the fixture
`rqstack_redis_url` and give the URL of an empty database, for example of `fakeredis.TcpFakeServer`.
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

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue
    from rq.job import Job

    from rqstack.tasks import Task

SERVERS = ("redis-server", "valkey-server")
MOST = 10_000
"""Jobs that one `run_jobs()` runs: a job that enqueues itself for ever ends there."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A job that waits.

    Args:
        name: Its task.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        queue: Its queue.
        at: When it is due, for a scheduled job.
        job: RQ's object.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    queue: str
    at: datetime | None
    job: Job


@pytest.fixture(scope="session")
def rqstack_redis_url() -> Iterator[str]:
    """The URL of a Redis for tests: one that is started for them. Override it to use another, empty one."""
    program = next((found for name in SERVERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.fail(
            f"rqstack's fixtures need {' or '.join(SERVERS)} on PATH, or a fixture rqstack_redis_url that gives the "
            "URL of an empty Redis.",
            pytrace=False,
        )
    # Not pytest's own folder: a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="rqs-"))
    socket = folder / "redis.sock"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        # With a name and password, so that those of a project's .env are not tried on it: it takes any.
        yield f"unix://default:tests@{socket}"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def rqstack_connection(rqstack_redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A client of the tests' Redis, which `get_settings()` and so all tasks use during the test."""
    from redis import Redis

    from rqstack.settings import get_settings

    client = Redis.from_url(rqstack_redis_url)
    _wait(client, rqstack_redis_url)
    if client.dbsize():
        pytest.fail(
            "the Redis of rqstack_redis_url is not empty: give the tests a database of their own.", pytrace=False
        )
    monkeypatch.setenv("REDIS_URL", rqstack_redis_url)
    get_settings.cache_clear()
    try:
        yield client
    finally:
        client.flushdb()
        client.close()
        # The environment is put back after this, and read again when it is asked for.
        get_settings.cache_clear()


@pytest.fixture
def enqueued(rqstack_connection: Redis) -> Callable[..., list[Enqueued]]:
    """`enqueued(task=None, queue=None)`: the jobs that wait, queued ones in their order, then scheduled ones by time.

    The task may be a task or its name.
    """

    def look(task: Task[..., Any] | str | None = None, queue: str | None = None) -> list[Enqueued]:
        name = getattr(task, "name", task)
        found = []
        for each in _queues(rqstack_connection):
            if queue is None or queue == each.name:
                found += [entry for entry in _waiting(each) if name is None or entry.name == name]
        return found

    return look


@pytest.fixture
def run_jobs(rqstack_connection: Redis) -> Callable[..., list[Job]]:
    """`run_jobs(*queues, scheduled=False, check=True)`: run the queued jobs in this process, until none is left.

    Jobs that these enqueue run too. Rate limits do not hold, so that a test need not wait.

    Args:
        queues: Names, in order of priority. Default: all.
        scheduled: Run jobs that are due later too, retries among them.
        check: Raise AssertionError if one of them failed for good, with its traceback.

    Returns:
        The jobs that ran, in their order.
    """

    def run(*queues: str, scheduled: bool = False, check: bool = True) -> list[Job]:
        return _run(rqstack_connection, queues, scheduled, check)

    return run


def _wait(client: Redis, url: str) -> None:
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

    found: Any = connection.smembers(keys.QUEUES)
    known = sorted(key.decode().removeprefix(keys.QUEUE) for key in found)
    return [get_queue(name, connection=connection) for name in names or known]


def _waiting(queue: Queue) -> Iterator[Enqueued]:
    registry = queue.scheduled_job_registry
    for job in [*queue.jobs, *(queue.fetch_job(job_id) for job_id in registry.get_job_ids())]:
        if job is None:
            continue
        at = None
        with suppress(Exception):
            at = registry.get_scheduled_time(job)
        name = str(getattr(job.instance, "name", job.func_name))
        yield Enqueued(name, tuple(job.args), dict(job.kwargs), queue.name, at, job)


def _run(connection: Redis, names: tuple[str, ...], scheduled: bool, check: bool) -> list[Job]:
    from rq import SimpleWorker

    from rqstack.limiting import unlimited
    from rqstack.registry.discovery import resolve
    from rqstack.security import get_serializer

    ran: list[Job] = []
    failures: list[str] = []
    worker: Any = None
    with unlimited():
        while True:
            queues = _queues(connection, names)
            if queues and worker is None:
                worker = SimpleWorker(
                    queues, name=f"tests-{os.getpid()}-{time.monotonic_ns()}", connection=connection,
                    serializer=get_serializer(),
                )  # fmt: skip
                worker.register_birth()
            found = (
                worker.queue_class.dequeue_any(queues, None, connection, serializer=get_serializer())
                if queues
                else None
            )
            if found is None:
                released = sum(_release(queue) for queue in queues) if scheduled else 0
                if not released:
                    break
                continue
            job, queue = found
            if len(ran) == MOST:
                raise AssertionError(f"run_jobs() has run {MOST} jobs and there are more: does a job enqueue itself?")
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


def _release(queue: Queue) -> int:
    """Put the scheduled jobs of a queue into it, by their times."""
    registry = queue.scheduled_job_registry
    ids = registry.get_job_ids()
    for job_id in ids:
        job = queue.fetch_job(job_id)
        registry.connection.zrem(registry.key, job_id)
        if job is not None:
            queue.enqueue_job(job)
    return len(ids)
