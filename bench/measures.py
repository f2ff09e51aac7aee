"""What is measured. Each measure returns numbers by name; one with jobs checks a sample of their results."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import jobs
from bench.processes import RedisServer, Workers
from bench.resp import Redis
from bench.systems import PLACE, ROOT, System

Numbers = dict[str, float | None]
STALLED = 60.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: of everything less with `QUICK=1`."""

    drain: int = 12_000
    one: int = 5_000
    bulk: int = 10_000
    samples: int = 200
    words: int = 1_000
    naps: int = 2_000
    idle_seconds: float = 4.0
    settle: float = 1.5
    quiet_seconds: float = 300.0


FULL = Size()
QUICK = Size(8_000, 3_000, 8_000, 100, 300, 1_000, 2.0, 1.0, 120.0)


class Bed:
    """A Redis and a system, for one measure."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.redis = RedisServer()
        self.environment = system.variables(self.redis.port) | {"REDIS_URL": f"redis://127.0.0.1:{self.redis.port}/0"}
        self.workers: list[Workers] = []
        self.file = str(Path(self.redis.folder) / "sample.json")
        PLACE.joinpath("home").mkdir(parents=True, exist_ok=True)
        PLACE.joinpath("logs").mkdir(parents=True, exist_ok=True)
        self.log = (PLACE / "logs" / f"{system.name.replace(' ', '-')}.log").open("ab")
        database, self.done_command = self.client("commands", 1)["done"]
        self.results = Redis(self.redis.port, database)
        self.looks = 0

    def client(self, *arguments: Any) -> Any:
        """Run the producer's side; what it prints."""
        command = [self.system.python, "-m", "bench.client", self.system.adapter, *map(str, arguments)]
        run = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        if run.returncode:
            raise RuntimeError(f"{self.system.name}: {' '.join(command[2:])}: {run.stderr[-1500:]}")
        return json.loads(run.stdout.rpartition("@@")[2])

    def enqueue(self, kind: str, total: int, mode: str = "bulk") -> float:
        """Enqueue; how many a second."""
        return float(self.client("enqueue", kind, total, mode, self.file)["rate"])

    def start(self, processes: int) -> Workers:
        commands = self.client("commands", processes)["commands"]
        workers = Workers(commands, self.environment, self.log, ROOT)
        self.workers.append(workers)
        return workers

    def done(self) -> int:
        """How many results are stored."""
        self.looks += 1
        return int(self.results(*self.done_command))

    def wait(self, total: int, pause: float = 0.005) -> list[tuple[float, int]]:
        """Until so many results are stored. Returns when the count changed, and to what."""
        seen: list[tuple[float, int]] = []
        changed = time.perf_counter()
        while True:
            count, now = self.done(), time.perf_counter()
            if count > (seen[-1][1] if seen else 0):
                seen.append((now, count))
                changed = now
            if count >= total:
                return seen
            if now - changed > STALLED:
                raise RuntimeError(f"{self.system.name}: {count} of {total} jobs done, then none for {STALLED:.0f} s")
            time.sleep(pause)

    def verify(self) -> None:
        answer = self.client("verify", self.file)
        if answer["wrong"] or not answer["checked"]:
            raise RuntimeError(f"{self.system.name}: {answer['wrong']} of {answer['checked']} results are wrong")

    def close(self) -> None:
        for workers in self.workers:
            workers.kill()
        self.redis.close()
        self.log.close()


@contextmanager
def bed(system: System) -> Iterator[Bed]:
    made = Bed(system)
    try:
        yield made
    finally:
        made.close()


def _run(made: Bed, kind: str, total: int, processes: int, verify: bool = False) -> Numbers:
    """Enqueue with no worker there, start them, and watch from the first stored result to the last."""
    made.enqueue(kind, total)
    _, reads = made.redis.counters()
    looks = made.looks
    workers = made.start(processes)
    seen = made.wait(total)
    _, reads_after = made.redis.counters()
    cpu = workers.cpu_seconds()
    if verify:
        made.verify()
    (first, count), (last, _) = seen[0], seen[-1]
    return {
        "rate": (total - count) / max(last - first, 1e-9),
        "round_trips": (reads_after - reads - (made.looks - looks) - 1) / total,
        "cpu_ms": 1000 * cpu / total,
    }


def _jobs(system: System, total: int) -> int:
    return max(100, int(total / system.pace))


def drain(system: System, size: Size, processes: int) -> Numbers:
    """No-op jobs a second, all enqueued before the workers start."""
    with bed(system) as made:
        return _run(made, "noop", _jobs(system, size.drain), processes, verify=processes == 2)


def enqueue(system: System, size: Size) -> Numbers:
    """Jobs a second by one producer: one by one, and in bulk by 1,000."""
    with bed(system) as made:
        one = made.enqueue("noop", size.one, "one")
    with bed(system) as made:
        return {"one": one, "bulk": made.enqueue("noop", size.bulk, "bulk")}


def _warm(made: Bed, processes: int, total: int, settle: float) -> Workers:
    """Workers that have done some jobs and wait."""
    workers = made.start(processes)
    time.sleep(2.5 if processes > 2 else 1.2)  # every process is up before the first job
    made.enqueue("noop", total, "one")
    made.wait(total, 0.02)
    time.sleep(settle)
    return workers


def latency(system: System, size: Size) -> Numbers:
    """Milliseconds from enqueueing one job to its stored result, two idle processes."""
    with bed(system) as made:
        _warm(made, 2, 20, size.settle)
        times = sorted(made.client("latency", size.samples, 0.015)["times"])
        return {"p50": 1000 * statistics.median(times), "p99": 1000 * times[int(0.99 * (len(times) - 1))]}


def idle(system: System, size: Size) -> Numbers:
    """Eight workers after 100 jobs: their memory, and what they do while there is nothing to do."""
    with bed(system) as made:
        workers = _warm(made, 8, 100, size.settle)
        commands, _ = made.redis.counters()
        cpu, start = workers.cpu_seconds(), time.perf_counter()
        memory = workers.memory_mb()
        time.sleep(size.idle_seconds)
        seconds = time.perf_counter() - start
        commands_after, _ = made.redis.counters()
        return {
            "memory": memory,
            "cpu": 100 * (workers.cpu_seconds() - cpu) / seconds,
            "commands": (commands_after - commands - 1) / seconds,
        }


def connections(system: System, size: Size, horses: int = 500) -> Numbers:
    """Supervisors of eight horses on fifty queues, all idle: connections to Redis, and commands a second.

    Commands within scripts count too.
    """
    queues = [f"queue-{number}" for number in range(50)]
    with bed(system) as made:
        made.redis.client("CONFIG", "SET", "maxclients", resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100)
        (command,) = made.client("commands", 8)["commands"]
        command = [word for part in command for word in (queues if part == "default" else [part])]
        supervisors, left = [], horses
        while left:
            supervisors.append([str(min(left, 8)) if word == "8" else word for word in command])
            left -= min(left, 8)
        for at in range(0, len(supervisors), 4):  # a few at a time: their start takes a second of CPU each
            made.workers.append(Workers(supervisors[at : at + 4], made.environment, made.log, ROOT))
            _await_steady(made, 0.5)
        _await_steady(made, 30.0)  # the registries are cleaned once, when the others are known to be alive
        # As long as each thing takes that is done now and then, waits in Redis and looks at the queues among them.
        (before, _), start = made.redis.counters(), time.perf_counter()
        time.sleep(size.quiet_seconds)
        after, _ = made.redis.counters()
        return {
            "connections": float(made.redis.client.info("clients")["connected_clients"]) - 1,
            "commands": (after - before - 1) / (time.perf_counter() - start),
        }


def _await_steady(made: Bed, seconds: float) -> None:
    """Wait until no connection was made for so long."""
    count, since = -1, time.perf_counter()
    while time.perf_counter() - since < seconds:
        found = int(made.redis.client.info("stats")["total_connections_received"])
        if found != count:
            count, since = found, time.perf_counter()
        time.sleep(0.1)


def cold(system: System, size: Size) -> Numbers:
    """Seconds from the worker's command to the first stored result, the job waiting."""
    times = []
    for _ in range(3):
        with bed(system) as made:
            made.enqueue("noop", 1, "one")
            workers = made.start(1)
            made.wait(1, 0.001)
            times.append(time.perf_counter() - workers.started)
    return {"seconds": statistics.median(times)}


def words(system: System, size: Size) -> Numbers:
    """A job of some ms of CPU, two processes: its rate as a share of the bare function's in two processes."""
    bare = _bare_rate()
    with bed(system) as made:
        rate = _run(made, "words", size.words, 2)["rate"]
    assert rate is not None
    return {"share": rate / ((bare + _bare_rate()) / 2), "rate": rate}


def _bare_rate() -> float:
    code = (
        "import time; from bench import jobs; jobs.words(0); end = time.perf_counter() + 1; n = 0\n"
        "while time.perf_counter() < end: jobs.words(n); n += 1\n"
        "print(n)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    return sum(float(process.communicate()[0]) for process in both)


def sleep(system: System, size: Size) -> Numbers:
    """Jobs of 10 ms sleep a second, eight processes; the ideal is 800."""
    with bed(system) as made:
        return _run(made, "nap", max(200, int(size.naps / min(system.pace, 4))), 8)


def kill(system: System, size: Size, whole: bool) -> Numbers:
    """Seconds from kill -9 in the middle of a job to its second start; None if there was none in time.

    Args:
        system: The system.
        size: Not used.
        whole: Kill every process of the worker and start another, rather than the process that runs the job.
    """
    patience = (system.recovers or 10) + 15 if whole else 15
    with bed(system) as made:
        runs = Redis(made.redis.port, jobs.RUNS_DATABASE)
        workers = made.start(1)
        time.sleep(2.0)
        made.enqueue("slow", 1, "one")
        started = _await_runs(runs, 1, 30)
        assert started, f"{system.name}: the job did not start"
        time.sleep(1.0)
        killed = time.time()
        if whole:
            workers.kill()
            made.start(1)
        else:
            os.kill(int(started[0].split()[0]), signal.SIGKILL)
        again = _await_runs(runs, 2, patience)
        return {"seconds": float(again[1].split()[1]) - killed if again else None}


def _await_runs(redis: Redis, number: int, patience: float) -> list[str] | None:
    deadline = time.perf_counter() + patience
    while time.perf_counter() < deadline:
        found = [entry.decode() for entry in redis("LRANGE", jobs.RUNS, 0, -1)]
        if len(found) >= number:
            return found
        time.sleep(0.02)
    return None


MEASURES: dict[str, Callable[[System, Size], Numbers]] = {
    "drain2": lambda system, size: drain(system, size, 2),
    "drain8": lambda system, size: drain(system, size, 8),
    "enqueue": enqueue,
    "latency": latency,
    "idle": idle,
    "cold": cold,
    "words": words,
    "sleep": sleep,
    "kill-horse": lambda system, size: kill(system, size, whole=False),
    "kill-worker": lambda system, size: kill(system, size, whole=True),
    "connections": connections,
}

OWN_MEASURES = ("connections",)
"""Measures of rqstack alone, which are taken only when they are named: hundreds of processes, for minutes."""
