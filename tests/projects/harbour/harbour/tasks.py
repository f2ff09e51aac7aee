"""Tasks that write down in a file what they do, and so run on any Redis and with any worker."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from rq import get_current_job

from rqstack import task

JOURNAL = "HARBOUR_JOURNAL"


def note(what: str, job_id: str = "") -> str:
    """Write a line. Returns the id of the job."""
    if not job_id:
        job = get_current_job()
        assert job is not None
        job_id = job.id
    with Path(os.environ[JOURNAL]).open("a") as journal:
        journal.write(f"{what} {job_id} {os.getpid()}\n")
    return job_id


@task
def work(seconds: float = 0.0) -> str:
    """Take some time; the result is the job's id."""
    note("begin")
    time.sleep(seconds)
    return note("end")


@task
def fail(seconds: float = 0.0) -> None:
    """Fail each time."""
    note("begin")
    raise ValueError("no")


@task
def fail_once(seconds: float = 0.0) -> str:
    """Fail the first time."""
    job_id = note("begin")
    if Path(os.environ[JOURNAL]).read_text().count(f"begin {job_id} ") == 1:
        raise ValueError("not yet")
    return note("end")


@task
def greet() -> None:
    """Runs with a message backend too, where there is no job."""
    note("greeted", "nobody")


def succeeded(job: Any, connection: Any, result: Any) -> None:
    """A callback."""
    note("succeeded", job.id)


def failed(job: Any, connection: Any, *error: Any) -> None:
    """A callback."""
    note("failed", job.id)
