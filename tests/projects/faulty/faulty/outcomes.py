"""Tasks for every kind of job and outcome. Each writes down that it ran, where no fault of Redis reaches it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import BusyLoadingError
from redis.retry import Retry as RedisRetry
from rq import Retry, get_current_job
from rq.job import Job

from faulty.tasks import note
from rqstack import task

_PATIENCE = 120.0
"""Seconds after which a task that waits for its test gives up."""


@contextmanager
def _direct() -> Iterator[Redis]:
    """Redis itself, past the proxy that stands before the worker: what a task reads is no part of the test.

    A Redis that is away is waited for.
    """
    retry = RedisRetry(ConstantBackoff(0.05), int(_PATIENCE / 0.05))
    with Redis(port=int(os.environ["FAULTS_REDIS_PORT"]), retry=retry, retry_on_error=[BusyLoadingError]) as client:
        yield client


def _job_id() -> str:
    job = get_current_job()
    assert job is not None
    return job.id


@task
def finish(seconds: float = 0.0) -> str:
    """Returns its own id."""
    note("begin")
    if seconds:
        time.sleep(seconds)
    return _job_id()


@task
def fail() -> None:
    """Always raises."""
    note("begin")
    raise RuntimeError("as it should")


@task
def fail_at_first() -> str:
    """Raises as long as its job has retries left."""
    note("begin")
    with _direct() as client:
        if int(client.hget(f"rq:job:{_job_id()}", "retries_left") or 0) > 0:
            raise RuntimeError("as it should")
    return _job_id()


@task
def ask_for_retry(interval: int = 0) -> str | Retry:
    """Asks for a retry until one is on record."""
    note("begin")
    with _direct() as client:
        if not client.exists(f"rq:results:{_job_id()}"):
            return Retry(max=1, interval=interval)
    return _job_id()


@task
def hold(flag: str) -> str:
    """Runs until a file is there."""
    note("begin")
    deadline = time.monotonic() + _PATIENCE
    while not Path(flag).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(flag)
        time.sleep(0.002)
    return _job_id()


@task
def die() -> None:
    """Ends its process."""
    note("begin")
    os.kill(os.getpid(), signal.SIGKILL)


def _rate(flag: str) -> str | None:
    return None if Path(flag).exists() else "1/hour"


@task(rate_limit=_rate)
def limited(flag: str) -> str:
    """Starts once, and then no more until a file is there: a job that is over the limit is snoozed."""
    note("begin")
    return _job_id()


def succeeded(job: Job, connection: Any, result: Any) -> None:
    """A callback."""
    note("succeeded", job.id)


def failed(job: Job, connection: Any, kind: Any, error: Any, trace: Any) -> None:
    """A callback."""
    note("failed", job.id)


def stopped(job: Job, connection: Any) -> None:
    """A callback."""
    note("stopped", job.id)
