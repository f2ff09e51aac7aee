"""The producer's side of a measure, run with the Python of the system's own environment. Prints one JSON object.

python -m bench.client ADAPTER commands PROCESSES            the commands of its workers, and its count of results
python -m bench.client ADAPTER enqueue KIND N one|bulk FILE  enqueue N jobs by the clock; ids of a sample into FILE
python -m bench.client ADAPTER latency SAMPLES GAP           round trips of single jobs, GAP seconds apart
python -m bench.client ADAPTER verify FILE                   read the sample's results by the system's own call
python -m bench.client ADAPTER mixed JOBS BURST RATE         waits of short jobs; one job in 100 takes SLOW seconds
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from bench.resp import Redis

CHUNK = 1000
SAMPLE = 50
GIVE_UP = 30.0
SLOW = 0.2


def commands(adapter: Any, processes: str) -> dict[str, Any]:
    return {"commands": adapter.worker_commands(int(processes)), "done": adapter.DONE}


def enqueue(adapter: Any, kind: str, count: str, mode: str, file: str) -> dict[str, Any]:
    total = int(count)
    handles = [adapter.enqueue(kind, 0)]  # outside the clock: connections are opened, scripts loaded
    start = time.perf_counter()
    if mode == "one":
        handles += [adapter.enqueue(kind, value) for value in range(1, total)]
    else:
        for first in range(1, total, CHUNK):
            handles += adapter.enqueue_bulk(kind, list(range(first, min(first + CHUNK, total))))
    seconds = time.perf_counter() - start
    chosen = sorted(random.sample(range(total), min(total, SAMPLE)))
    Path(file).write_text(json.dumps([[value, adapter.ident(handles[value])] for value in chosen]))
    return {"rate": (total - 1) / seconds if total > 1 else 0.0}


def latency(adapter: Any, samples: str, gap: str) -> dict[str, Any]:
    connections: dict[int, Redis] = {}
    chance = random.Random(5)
    times = []
    for value in range(int(samples)):
        time.sleep(float(gap) * (0.5 + chance.random()))
        start = time.perf_counter()
        database, command = adapter.ready(adapter.ident(adapter.enqueue("noop", value)))
        if database not in connections:
            connections[database] = Redis(int(os.environ["BENCH_PORT"]), database)
        while not connections[database](*command):
            if time.perf_counter() - start > GIVE_UP:
                raise SystemExit(f"no result after {GIVE_UP:.0f} s")
            time.sleep(0.0002)
        times.append(time.perf_counter() - start)
    return {"times": times}


def verify(adapter: Any, file: str) -> dict[str, Any]:
    pairs = json.loads(Path(file).read_text())
    return {"checked": len(pairs), "wrong": sum(adapter.result(job) != value for value, job in pairs)}


def mixed(adapter: Any, count: str, burst: str, rate: str) -> dict[str, Any]:
    """Enqueue `burst` jobs at once, so often that there are `rate` a second. One of each hundred is slow."""
    chance = random.Random(7)
    size, total = int(burst), int(count)
    slow = {hundred + chance.randrange(100) for hundred in range(0, total, 100)}
    handles: list[Any] = []
    due = time.perf_counter()
    for first in range(0, total, size):
        time.sleep(max(due - time.perf_counter(), 0.0))
        due += size / float(rate)
        now = time.time()
        values = [(now, SLOW if place in slow else 0.0) for place in range(first, first + size)]
        handles += adapter.enqueue_bulk("mixed", values) if size > 1 else [adapter.enqueue("mixed", values[0])]
    _await_results(adapter, adapter.ident(handles[-1]))
    time.sleep(2 * SLOW)  # jobs before the last one may still run
    waits = {place: adapter.result(adapter.ident(handle)) for place, handle in enumerate(handles)}
    if missing := sum(wait is None for wait in waits.values()):
        raise SystemExit(f"{missing} of {total} jobs have no result")
    return {"waits": [wait for place, wait in waits.items() if place not in slow]}


def _await_results(adapter: Any, job: str) -> None:
    database, command = adapter.ready(job)
    connection = Redis(int(os.environ["BENCH_PORT"]), database)
    start = time.perf_counter()
    while not connection(*command):
        if time.perf_counter() - start > GIVE_UP:
            raise SystemExit(f"no result after {GIVE_UP:.0f} s")
        time.sleep(0.01)


def main() -> None:
    # A process of its own, so that the adapter called `celery` does not hide the package of that name.
    adapter = importlib.import_module(f"bench.adapters.{sys.argv[1]}")
    action = {"commands": commands, "enqueue": enqueue, "latency": latency, "verify": verify, "mixed": mixed}[
        sys.argv[2]
    ]
    print("\n@@" + json.dumps(action(adapter, *sys.argv[3:])))


if __name__ == "__main__":
    main()
