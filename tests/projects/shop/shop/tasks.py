"""Tasks that end as they should, or show what a job sees."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

from redis import Redis
from rq import Queue, Retry, get_current_job
from rq.job import Job

from rqstack import task


def current_job() -> Job:
    """The running job."""
    job = get_current_job()
    assert job is not None
    return job


def redis() -> Redis:
    """The running job's Redis."""
    return current_job().connection


@task
def give(value: object = None) -> object:
    return value


@task
async def give_later(value: object) -> tuple[object, str]:
    await asyncio.sleep(0)
    return value, current_job().id


@task
def double(number: int) -> int:
    return 2 * number


@task
def pid() -> int:
    return os.getpid()


@task
def nap(seconds: float) -> None:
    time.sleep(seconds)


@task
def crash() -> None:
    """End the process without a word."""
    os._exit(1)


@task
def hold() -> str:
    """Run until told to end."""
    job = current_job()
    job.connection.rpush("holding:" + job.id, os.getpid())
    job.connection.blpop("release:" + job.id, 60)
    return "released"


@task
def hold_and_tell_time() -> float:
    """Run until told to end; the time by this process's clock."""
    hold()
    return time.time()


# -- failures and retries


@task
def fail(text: str = "no", kind: str = "ValueError") -> None:
    raise {"ValueError": ValueError, "KeyError": KeyError}[kind](text)


@task
def note_and_fail(text: str) -> None:
    redis().rpush("runs", text)
    raise ValueError("no")


@task
def fail_until(times: int) -> int:
    """Fail so many times."""
    count = redis().incr("tries:" + current_job().id)
    if count <= times:
        raise KeyError(count)
    return count


@task
def give_up() -> None:
    """RQ's way not to be run again: the running job has no retries left."""
    current_job().retries_left = 0
    redis().incr("runs-of-" + current_job().id)
    raise ValueError("never again")


@task
def once_more() -> Retry | int:
    """Ask for a retry twice."""
    count = redis().incr("once-more:" + current_job().id)
    return Retry(max=2) if count < 3 else count


@task
def count_run() -> None:
    redis().rpush("runs:" + current_job().id, os.getpid())


# -- the current job


@task
def look() -> dict[str, Any]:
    """What the current job says of itself."""
    job = current_job()
    return {
        "id": job.id,
        "origin": job.origin,
        "args": job.args,
        "name": job.func_name,
        "timeout": job.timeout,
        "status": job.get_status().value,
        "description": job.description,
        "retries": job.retries_left,
        "started": job.started_at is not None,
        "worker": job.worker_name,
        "meta": job.meta,
        "ttl": job.result_ttl,
        "missing": hasattr(job, "no_such_attribute"),
        "same": job == get_current_job(),
    }


@task
def write_meta(**values: object) -> dict[str, Any]:
    job = current_job()
    job.meta.update(values)
    job.save_meta()
    job.refresh()
    return job.meta


@task
def assign_meta(**values: object) -> None:
    job = current_job()
    job.meta = values
    job.save_meta()


@task
def describe(text: str) -> None:
    job = current_job()
    job.description = text
    job.save()


@task
def nested(depth: int) -> str:
    """Call a task within a task."""
    before = current_job().id
    if depth:
        inner = nested
        inner(depth - 1)
    assert current_job().id == before
    return before


@task
def add_child() -> str:
    """Enqueue a job that depends on this one."""
    job = current_job()
    queue = Queue("default", connection=job.connection)
    queue.enqueue("shop.tasks.give", args=("child",), job_id="child-of-" + job.id, depends_on=job)
    return "parent"


# -- callbacks


def on_success(job: Job, connection: Redis, result: object) -> None:
    connection.set("success:" + job.id, repr(result))


def on_failure(job: Job, connection: Redis, kind: type[BaseException], value: object, trace: object) -> None:
    connection.set("failure:" + job.id, kind.__name__)


def on_stopped(job: Job, connection: Redis) -> None:
    connection.set("stopped:" + job.id, "1")


def tell(job: Job, connection: Redis, result: object) -> None:
    """Note each call, where `on_success` notes the last."""
    connection.rpush("told", job.id)


def handler(job: Job, kind: type[BaseException], value: object, trace: object) -> bool:
    """An exception handler."""
    job.connection.rpush("handled", job.id)
    return False


@task
def seed() -> float:
    """Draws the same number each time."""
    random.seed(1)
    return random.random()


def save_failed(job: Job, connection: Redis, *exc_info: object) -> None:
    job.meta["saved"] = job.meta.get("saved", 0) + 1
    job.save()


def save_finished(job: Job, connection: Redis, result: object) -> None:
    save_failed(job, connection)


@task
def note(file: str, number: int) -> None:
    """Append a number to a file."""
    with Path(file).open("a") as lines:
        lines.write(f"{number}\n")


@task(rate_limit="100/second")
def rated() -> int:
    return 1


@task
def large(size: int) -> str:
    return "x" * size
