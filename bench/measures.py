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
from bench.systems import OWN, PLACE, ROOT, System

Numbers = dict[str, float | None]
STALLED = 60.0
UNBATCHED = {"RQSTACK_BATCH": "1"}
MIXED_RATE = 400
"""Jobs per second: four of them take 0.2 s, so that the slow ones keep two processes busy for 40 % of the time."""


class Stalled(RuntimeError):
    """No more jobs are done, though some are left.

    Args:
        text: What to say.
        count: How many are done.
        changed: When the last one was done, by `time.perf_counter`.
    """

    def __init__(self, text: str, count: int, changed: float) -> None:
        super().__init__(text)
        self.count = count
        self.changed = changed


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
    mixed: int = 4_000


FULL = Size()
QUICK = Size(8_000, 3_000, 8_000, 100, 300, 1_000, 2.0, 1.0, 120.0, 2_000)


class Bed:
    """A Redis and a system, for one measure.

    Args:
        system: The system.
        environment: Environment variables of its processes, beside the system's own.
    """

    def __init__(self, system: System, **environment: str) -> None:
        self.system = system
        self.redis = RedisServer()
        self.environment = system.variables(self.redis.port) | {"REDIS_URL": f"redis://127.0.0.1:{self.redis.port}/0"}
        self.environment |= {"BENCH_FLAGS": str(Path(self.redis.folder) / "flags"), **environment}
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

    def wait(self, total: int, pause: float = 0.005, patience: float = STALLED) -> list[tuple[float, int]]:
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
            if now - changed > patience:
                text = f"{self.system.name}: {count} of {total} jobs done, then none for {patience:.0f} s"
                raise Stalled(text, count, changed)
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
def bed(system: System, **environment: str) -> Iterator[Bed]:
    made = Bed(system, **environment)
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


def unbatched(system: System, size: Size, processes: int) -> Numbers:
    """As `drain`, with one job per call of Redis."""
    with bed(system, **UNBATCHED) as made:
        return _run(made, "noop", _jobs(system, size.drain), processes)


def executions(system: System, size: Size, kind: str, runs: int) -> Numbers:
    """Executions per second of jobs of a kind, two processes. For rqstack also: as a share of plain jobs' rate.

    Plain jobs without batches are measured right before and right after, since the machine's speed wanders.

    Args:
        kind: What is enqueued.
        runs: How many executions there are per job enqueued, callbacks included.
    """
    total = _jobs(system, size.drain) // runs
    if system.name != OWN:
        return {"rate": _execution_rate(system, kind, total, runs)}
    before = _execution_rate(system, "noop", total * runs, 1, **UNBATCHED)
    rate = _execution_rate(system, kind, total, runs)
    after = _execution_rate(system, "noop", total * runs, 1, **UNBATCHED)
    return {"rate": rate, "share": 2 * rate / (before + after)}


def _execution_rate(system: System, kind: str, total: int, runs: int, **environment: str) -> float:
    """From the moment that a job has left the queue until the last one has ended."""
    ended = total * 2 if kind == "dependent" else total
    with bed(system, **environment) as made:
        Path(made.environment["BENCH_FLAGS"]).write_bytes(bytes(total))
        made.enqueue(kind, total, "bulk" if kind in ("noop", "failing") else "one")
        redis = made.redis.client
        waiting = redis("LLEN", "rq:queue:default")
        made.start(2)
        given_up = time.perf_counter() + STALLED
        while redis("LLEN", "rq:queue:default") == waiting:
            if time.perf_counter() > given_up:
                raise RuntimeError(f"{system.name}: no job began in {STALLED:.0f} s")
            time.sleep(0.001)
        start = time.perf_counter()
        made.done_command = ["ZCARD", f"rq:{'failed' if kind == 'failing' else 'finished'}:default"]
        loses = kind == "dependent" and system.name != OWN
        try:
            end, _ = made.wait(ended, patience=5.0 if loses else STALLED)[-1]
        except Stalled as stall:
            if not loses:
                raise
            # RQ's workers leave some dependents in its ready registry, for its maintenance to find: the others count.
            end, found = stall.changed, stall.count
            return found / (end - start)
        if kind != "failing":
            made.verify()
    return total * runs / (end - start)


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
    return _sleeping(system, size, "nap", 8)


def _sleeping(system: System, size: Size, kind: str, processes: int, **environment: str) -> Numbers:
    with bed(system, **environment) as made:
        return _run(made, kind, max(200, int(size.naps / min(system.pace, 4))), processes)


def sleep2(system: System, size: Size, kind: str) -> Numbers:
    """Jobs of a short sleep a second, two processes. For rqstack also: as a share of the rate without batches."""
    numbers = _sleeping(system, size, kind, 2)
    if system.name == OWN:
        rate, single = numbers["rate"], _sleeping(system, size, kind, 2, **UNBATCHED)["rate"]
        numbers["share"] = rate / single if rate and single else None
    return numbers


def mixed(system: System, size: Size, burst: int) -> Numbers:
    """Milliseconds that short jobs wait beside slow ones, two processes; with batches, and without.

    Args:
        burst: How many jobs are enqueued at once.
    """
    numbers: Numbers = {}
    for suffix, environment in (("", {}), (" unbatched", UNBATCHED)):
        with bed(system, **environment) as made:
            _warm(made, 2, 100, size.settle)
            waits = sorted(made.client("mixed", size.mixed, burst, MIXED_RATE)["waits"])
            numbers[f"p50{suffix}"] = 1000 * statistics.median(waits)
            numbers[f"p99{suffix}"] = 1000 * waits[int(0.99 * (len(waits) - 1))]
    return numbers


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


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure, and when it is taken.

    Args:
        take: Takes it.
        systems: The systems that it is for; all if none are named.
        full_only: Taken with `QUICK=1` only when it is named.
        named_only: Taken only when it is named.
    """

    take: Callable[[System, Size], Numbers]
    systems: tuple[str, ...] = ()
    full_only: bool = False
    named_only: bool = False


_RQ_AND_OWN = (OWN, "rq SimpleWorker")


def _kind(kind: str, runs: int = 1) -> Measure:
    return Measure(lambda system, size: executions(system, size, kind, runs), _RQ_AND_OWN, full_only=True)


MEASURES: dict[str, Measure] = {
    "drain2": Measure(lambda system, size: drain(system, size, 2)),
    "drain8": Measure(lambda system, size: drain(system, size, 8)),
    "unbatched2": Measure(lambda system, size: unbatched(system, size, 2), (OWN,), full_only=True),
    "unbatched8": Measure(lambda system, size: unbatched(system, size, 8), (OWN,), full_only=True),
    "retry": _kind("flaky", 2),
    "callback": _kind("callback", 2),
    "dependent": _kind("dependent", 2),
    "limit": _kind("limited"),
    "failing": _kind("failing"),
    "enqueue": Measure(enqueue),
    "latency": Measure(latency),
    "idle": Measure(idle),
    "cold": Measure(cold),
    "words": Measure(words),
    "sleep": Measure(sleep),
    "2ms": Measure(lambda system, size: sleep2(system, size, "short"), full_only=True),
    "10ms": Measure(lambda system, size: sleep2(system, size, "nap"), full_only=True),
    "mixed": Measure(lambda system, size: mixed(system, size, 1), (OWN,), full_only=True),
    "mixed-bursts": Measure(lambda system, size: mixed(system, size, 100), (OWN,), full_only=True),
    "kill-horse": Measure(lambda system, size: kill(system, size, whole=False)),
    "kill-worker": Measure(lambda system, size: kill(system, size, whole=True)),
    "connections": Measure(connections, (OWN,), named_only=True),
}
