"""Functions for RQ's own worker and for ours: one for each way in which a job can end."""

from __future__ import annotations

import sys
import time
from typing import Any

from redis import Redis
from rq import Retry, get_current_job
from rq.job import Job


def current_job() -> Job:
    """The running job."""
    job = get_current_job()
    assert job is not None
    return job


def give(value: object = None) -> object:
    return value


async def give_later(value: object) -> object:
    return value


def fail(kind: str = "ValueError", text: str = "odd: é") -> None:
    raise {"ValueError": ValueError, "KeyError": KeyError}[kind](text)


def keep_meta() -> dict[str, Any]:
    job = current_job()
    job.meta["seen"] = job.meta.get("seen", 0) + 1
    job.save_meta()
    return job.meta


def fail_with_meta() -> None:
    keep_meta()
    fail()


def once_more() -> Retry | str:
    return Retry(max=1) if not current_job().number_of_retries else "second"


def always_more() -> Retry:
    return Retry(max=1)


def later() -> Retry:
    return Retry(max=2, interval=300)


def leave() -> None:
    sys.exit(3)


def hang() -> None:
    time.sleep(60)


class Thing:
    """Its methods and itself are jobs."""

    def __init__(self, n: int) -> None:
        self.n = n

    def add(self, m: int) -> int:
        return self.n + m

    def __call__(self, m: int) -> int:
        return self.n * m


def on_success(job: Job, connection: Redis, result: object) -> None:
    connection.set(f"seen:success:{job.id}", str(result))


def on_failure(job: Job, connection: Redis, kind: type[BaseException], value: object, trace: object) -> None:
    connection.set(f"seen:failure:{job.id}", repr(value))


def on_stopped(job: Job, connection: Redis) -> None:
    connection.set(f"seen:stopped:{job.id}", 1)


def bad_callback(*args: object) -> None:
    raise RuntimeError("bad callback")
