"""Dramatiq with Redis, one thread a process; results in a database of their own, whose size counts them."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench import jobs

PORT = int(os.environ["BENCH_PORT"])
DONE = (1, ["DBSIZE"])
backend = RedisBackend(url=f"redis://127.0.0.1:{PORT}/1")
broker = RedisBroker(url=f"redis://127.0.0.1:{PORT}/0")
broker.add_middleware(Results(backend=backend))
dramatiq.set_broker(broker)
actors = {
    kind: dramatiq.actor(getattr(jobs, kind), store_results=True) for kind in ("noop", "words", "nap", "short", "slow")
}


def worker_commands(processes: int) -> list[list[str]]:
    return [["dramatiq", "--processes", str(processes), "--threads", "1", "bench.adapters.dramatiq"]]


def enqueue(kind: str, value: int) -> Any:
    return actors[kind].send(value)


def enqueue_bulk(kind: str, values: list[int]) -> list[Any]:
    messages = [actors[kind].message(value) for value in values]
    dramatiq.group(messages).run()
    return messages


def ident(handle: Any) -> str:
    return str(handle.encode().decode())


def ready(job: str) -> tuple[int, list[str]]:
    return 1, ["EXISTS", backend.build_message_key(Message.decode(job.encode()))]


def result(job: str) -> Any:
    return backend.get_result(Message.decode(job.encode()))
