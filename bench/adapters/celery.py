"""Celery with Redis as broker, prefork workers; results in a database of their own, whose size counts them."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.result import AsyncResult

from bench import jobs

PORT = int(os.environ["BENCH_PORT"])
DONE = (1, ["DBSIZE"])
app = Celery("bench", broker=f"redis://127.0.0.1:{PORT}/0", backend=f"redis://127.0.0.1:{PORT}/1")
tasks = {
    kind: app.task(name=f"bench.{kind}")(getattr(jobs, kind)) for kind in ("noop", "words", "nap", "short", "slow")
}


def worker_commands(processes: int) -> list[list[str]]:
    return [["celery", "-A", "bench.adapters.celery:app", "worker", "-c", str(processes), "--loglevel", "INFO"]]


def enqueue(kind: str, value: int) -> Any:
    return tasks[kind].delay(value)


def enqueue_bulk(kind: str, values: list[int]) -> list[Any]:
    with app.producer_pool.acquire() as producer:
        return [tasks[kind].apply_async((value,), producer=producer) for value in values]


def ident(handle: Any) -> str:
    return str(handle.id)


def ready(job: str) -> tuple[int, list[str]]:
    return 1, ["EXISTS", f"celery-task-meta-{job}"]


def result(job: str) -> Any:
    return AsyncResult(job, app=app).get(timeout=10)
