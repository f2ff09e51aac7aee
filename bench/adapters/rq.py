"""RQ, with the worker class that BENCH_WORKER names."""

from __future__ import annotations

import os
from typing import Any

from redis import Redis
from rq import Queue, Retry
from rq.job import Job
from rq.rate_limit import RateLimit

from bench import jobs

PORT = int(os.environ["BENCH_PORT"])
DONE = (0, ["ZCARD", "rq:finished:default"])
connection = Redis(port=PORT)
queue = Queue("default", connection=connection)


def worker_commands(processes: int) -> list[list[str]]:
    url = f"redis://127.0.0.1:{PORT}/0"
    return [["rq", "worker", "--url", url, "--worker-class", os.environ["BENCH_WORKER"], "default"]] * processes


def enqueue(kind: str, value: int) -> Any:
    match kind:
        case "flaky":
            return queue.enqueue(jobs.flaky, value, retry=Retry(max=1))
        case "limited":
            return queue.enqueue(jobs.noop, value, rate_limit=RateLimit("limited", jobs.LIMIT))
        case "callback":
            return queue.enqueue(jobs.noop, value, on_success=jobs.succeeded)
        case "dependent":
            return queue.enqueue(jobs.noop, value, depends_on=queue.enqueue(jobs.noop, value))
    return queue.enqueue(getattr(jobs, kind), value)


def enqueue_bulk(kind: str, values: list[int]) -> list[Any]:
    function = getattr(jobs, kind)
    return list(queue.enqueue_many([Queue.prepare_data(function, args=(value,)) for value in values]))


def ident(handle: Any) -> str:
    return str(handle.id)


def ready(job: str) -> tuple[int, list[str]]:
    return 0, ["EXISTS", f"rq:results:{job}"]


def result(job: str) -> Any:
    return Job.fetch(job, connection=connection).return_value()
