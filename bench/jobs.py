"""The bodies of the jobs: every system runs these same functions."""

from __future__ import annotations

import functools
import mmap
import os
import random
import string
import time
from collections import Counter
from pathlib import Path

from bench.resp import Redis

RUNS = "bench:runs"
RUNS_DATABASE = 3
SLOW_SECONDS = 4.0
LIMIT = 8
"""Slots of the concurrency limit: more than there are processes, so that it holds none of them up."""


@functools.cache
def text() -> str:
    """100 KB of words, the same in every process."""
    chance = random.Random(11)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9))) for _ in range(2000)]
    return " ".join(chance.choices(words, k=20_000))[:100_000]


def noop(value: int) -> int:
    return value


def words(value: int) -> int:
    """A few ms of work: how many different words are in 100 KB of text."""
    return len(Counter(text().split()))


def nap(value: int) -> int:
    time.sleep(0.01)
    return value


def short(value: int) -> int:
    time.sleep(0.002)
    return value


def failing(value: int) -> int:
    raise ValueError(f"job {value} fails")


def flaky(value: int) -> int:
    """Fails when it runs for the first time. What has run is in shared memory: asking Redis would be measured too."""
    runs = _flags()
    if not runs[value]:
        runs[value] = 1
        raise ValueError(f"job {value} fails once")
    return value


@functools.cache
def _flags() -> mmap.mmap:
    """One byte per job, shared by all processes."""
    with Path(os.environ["BENCH_FLAGS"]).open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def mixed(value: tuple[float, float]) -> float:
    """Seconds from its enqueueing until it begins; then it sleeps.

    Args:
        value: When it was enqueued, in Unix seconds, and how long it sleeps.
    """
    enqueued, seconds = value
    waited = time.time() - enqueued
    if seconds:
        time.sleep(seconds)
    return waited


def succeeded(job: object, connection: object, result: object) -> None:
    """A callback."""


def slow(value: int) -> int:
    """Long enough to be killed in the middle. Tells Redis its process and start, so that a second run is seen."""
    redis = Redis(int(os.environ["BENCH_PORT"]), RUNS_DATABASE)
    redis("RPUSH", RUNS, f"{os.getpid()} {time.time()}")
    redis.close()
    time.sleep(SLOW_SECONDS)
    return value
