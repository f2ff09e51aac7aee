"""rqstack as it is deployed: registered tasks, signed payloads, one supervisor with its horses."""

from __future__ import annotations

import sys
from typing import Any

from bench_tasks import tasks
from rq.job import Job

from rqstack.enqueue import get_queue
from rqstack.security import get_job_serializer

DONE = (0, ["ZCARD", "rq:finished:default"])


def worker_commands(processes: int) -> list[list[str]]:
    return [[sys.executable, "-m", "rqstack.cli.main", "worker", "run", "default", "--processes", str(processes)]]


def enqueue(kind: str, value: int) -> Any:
    if kind == "callback":
        return tasks.noop.enqueue((value,), on_success=tasks.succeeded)
    if kind == "dependent":
        return tasks.noop.enqueue((value,), depends_on=tasks.noop.delay(value))
    return getattr(tasks, kind).delay(value)


def enqueue_bulk(kind: str, values: list[Any]) -> list[Any]:
    jobs: list[Any] = getattr(tasks, kind).enqueue_many([(value,) for value in values])
    return jobs


def ident(handle: Any) -> str:
    return str(handle.id)


def ready(job: str) -> tuple[int, list[str]]:
    return 0, ["EXISTS", f"rq:results:{job}"]


def result(job: str) -> Any:
    connection = get_queue("default").connection
    return Job.fetch(job, connection=connection, serializer=get_job_serializer()).return_value()
