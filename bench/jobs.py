"""The bodies of the jobs: every system runs these same functions."""

from __future__ import annotations

import functools
import os
import random
import string
import time
from collections import Counter

from bench.resp import Redis

RUNS = "bench:runs"
RUNS_DATABASE = 3
SLOW_SECONDS = 4.0


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


def slow(value: int) -> int:
    """Long enough to be killed in the middle. Tells Redis its process and start, so that a second run is seen."""
    redis = Redis(int(os.environ["BENCH_PORT"]), RUNS_DATABASE)
    redis("RPUSH", RUNS, f"{os.getpid()} {time.time()}")
    redis.close()
    time.sleep(SLOW_SECONDS)
    return value
