"""The benchmark's jobs as rqstack tasks, found by workers as any project's are."""

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
def slow(value: int) -> int:
    return jobs.slow(value)
