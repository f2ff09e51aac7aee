"""Tasks that tell which version of their code runs."""

from __future__ import annotations

import os
import time

from rq import get_current_job
from rq.job import Job

from rqstack import task
from versioned.version import VERSION


def current_job() -> Job:
    """The running job."""
    job = get_current_job()
    assert job is not None
    return job


@task
def version(pause: float = 0) -> tuple[int, int, int]:
    """Which code runs, at the beginning and at the end; and the process."""
    before = VERSION
    time.sleep(pause)
    from versioned import version

    return before, version.VERSION, os.getpid()


@task
def hold() -> int:
    """Run until told to end."""
    job = current_job()
    job.connection.rpush("holding:" + job.id, os.getpid())
    job.connection.blpop("release:" + job.id, 60)
    return VERSION


@task
def note() -> int:
    job = current_job()
    job.meta["note"] = "mine"
    job.save_meta()
    return VERSION
