"""Tasks that write down each run, and that wait or fail where a file asks them to.

`DEPOT_FOLDER` names a folder. A run adds a line to `journal` there, with its job's id and its process id. It waits
while there is a file `hold/<job id>`, and then fails if there is a file `fail/<job id>`. Without the variable a task
does none of this.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from rq import get_current_job

from rqstack import queue_command, task

POLL = 0.02
"""Seconds between two looks at the file that holds a job."""


class CourierAway(Exception):
    """The courier does not answer."""


def record_run(name: str) -> None:
    """Write the run down; wait or fail as asked.

    Args:
        name: What is written where no job runs, as for a message of another backend.

    Raises:
        CourierAway: A file asked for it.
    """
    if not (given := os.environ.get("DEPOT_FOLDER")):
        return
    folder = Path(given)
    job = get_current_job()
    job_id = name if job is None else job.id
    # One write of a short line to a file opened to append is whole, whoever else writes.
    with (folder / "journal").open("a") as journal:
        journal.write(f"{job_id} {os.getpid()}\n")
    while (folder / "hold" / job_id).exists():
        time.sleep(POLL)
    if (folder / "fail" / job_id).exists():
        raise CourierAway(f"no courier for {job_id}")


@task
def pack(order: str, parcels: int = 1) -> str:
    """Most jobs are this."""
    record_run(order)
    return f"{order} in {parcels}"


@task(retries=3, backoff=[15, 60, 600])
def book_courier(order: str) -> str:
    """Runs again some time after a failure."""
    record_run(order)
    return f"{order} is booked"


@task(rate_limit="1/15 seconds")
def print_label(order: str) -> str:
    """Waits for its turn."""
    record_run(order)
    return f"label of {order}"


@task(unique=True)
def count_stock(hall: int) -> int:
    """One job of the same arguments waits or runs at a time."""
    record_run(f"stock-{hall}")
    return hall


@queue_command
def weigh(order: str) -> int:
    """A call of it enqueues a job."""
    record_run(order)
    return len(order)


@task
async def track(order: str) -> str:
    """A coroutine function."""
    record_run(order)
    return f"{order} is on its way"


@task(cron="30 4 * * *", timezone="Europe/London", misfire_grace=3 * 86_400, queue="short-running")
def close_day() -> str:
    """A line of the cron table, declared with its task."""
    record_run("close-day")
    return "closed"


@task
def restock(shelf: str) -> str:
    """What `cron.py` and a line made at run time call."""
    record_run(shelf)
    return shelf


class Parcel:
    """An object whose method is a task: it is pickled with the job."""

    def __init__(self, order: str) -> None:
        self.order = order

    @task
    def ship(self, country: str) -> str:
        """A method."""
        record_run(self.order)
        return f"{self.order} to {country}"


# -- callbacks


def on_success(job: Any, connection: Any, result: Any) -> None:
    """Leaves a trace of a success in Redis."""
    connection.set(f"depot:success:{job.id}", str(result))


def on_failure(job: Any, connection: Any, kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Leaves a trace of a failure in Redis."""
    connection.set(f"depot:failure:{job.id}", kind.__name__)


def on_stopped(job: Any, connection: Any) -> None:
    """Leaves a trace of a stop in Redis."""
    connection.set(f"depot:stopped:{job.id}", "stopped")
