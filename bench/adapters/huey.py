"""Huey with Redis and process workers."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey

from bench import jobs

DONE = (0, ["HLEN", "huey.results.bench"])
huey = RedisHuey("bench", host="127.0.0.1", port=int(os.environ["BENCH_PORT"]))
tasks = {kind: huey.task()(getattr(jobs, kind)) for kind in ("noop", "words", "nap", "short", "slow")}


def worker_commands(processes: int) -> list[list[str]]:
    return [["huey_consumer", "bench.adapters.huey.huey", "-k", "process", "-w", str(processes)]]


def enqueue(kind: str, value: int) -> Any:
    return tasks[kind](value)


def enqueue_bulk(kind: str, values: list[int]) -> list[Any]:
    return list(tasks[kind].map(values))


def ident(handle: Any) -> str:
    return str(handle.id)


def ready(job: str) -> tuple[int, list[str]]:
    return 0, ["HEXISTS", "huey.results.bench", job]


def result(job: str) -> Any:
    return huey.result(job, preserve=True)
