"""A task of each kind, with each option."""

from __future__ import annotations

import os  # noqa: F401 - a callback that is named by this module is refused
from typing import Never

from redis import Redis
from rq import get_current_job
from rq.job import Job

from rqstack import queue_command, task


def redis() -> Redis:
    """The running job's Redis."""
    job = get_current_job()
    assert job is not None
    return job.connection


def note(*words: object) -> None:
    """Add a line to the list `notes`."""
    redis().rpush("notes", " ".join(map(str, words)))


@task
def add(x: int, y: int = 2) -> int:
    return x + y


@task(queue="q", timeout=7, result_ttl=8, failure_ttl=9, retries=2, backoff=[5, 6], description="d", meta={"m": 1})
def optioned(x: int) -> int:
    return x


@task(unique=True)
def once(x: int, y: int = 0) -> int:
    return x


@task(at_front=True)
def first() -> None: ...


@queue_command
def churn(n: int) -> int:
    note("churn", n)
    if n:
        churn(n - 1)
    return n


@task
async def waits(x: int) -> int:
    return x + 1


@queue_command
async def churn_async(n: int) -> int:
    if n:
        churn_async(n - 1)
    return n


@task(retries=3, retry_on=OSError)
def picky(kind: str) -> Never:
    note("picky", kind)
    raise {"os": ConnectionError, "key": KeyError}[kind]("why")


@task(rate_limit="5/second", retries=1)
def limited(x: int) -> int:
    note("limited", x, *redis().time())
    return x


def on_success(job: Job, connection: Redis, result: object) -> None:
    connection.rpush("notes", f"on_success {result}")


class Model:
    """Has tasks as methods."""

    def __init__(self, name: str) -> None:
        self.name = name

    @task
    def greet(self, word: str) -> str:
        return f"{word} {self.name}"

    @task
    @staticmethod
    def still(x: int) -> int:
        return -x
