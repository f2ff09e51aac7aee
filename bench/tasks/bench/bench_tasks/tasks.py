"""The benchmark's jobs as rqstack tasks, found by workers as any project's are."""

from typing import Any

from bench import jobs

from rqstack import task


@task
def noop(value: int) -> int:
    return jobs.noop(value)


@task
def words(value: int) -> int:
    return jobs.words(value)


@task
def nap(value: int) -> int:
    return jobs.nap(value)


@task
def short(value: int) -> int:
    return jobs.short(value)


@task
def slow(value: int) -> int:
    return jobs.slow(value)


@task
def failing(value: int) -> int:
    return jobs.failing(value)


@task(retries=1, backoff=None)
def flaky(value: int) -> int:
    return jobs.flaky(value)


@task(concurrency=jobs.LIMIT)
def limited(value: int) -> int:
    return jobs.noop(value)


@task
def mixed(value: tuple[float, float]) -> float:
    return jobs.mixed(value)


def succeeded(job: Any, connection: Any, result: Any) -> None:
    jobs.succeeded(job, connection, result)
