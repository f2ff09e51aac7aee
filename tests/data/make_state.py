"""Records the Redis of a running rqstack, so that later versions are tested against it.

    .venv/bin/python tests/data/make_state.py

Starts a Redis on a free port, runs `rqstack worker run` and `rqstack scheduler` on it, and enqueues jobs until there is
one of each kind. Then writes two files beside this one: `state-<version>.redis`, commands for `redis-cli`, and
`state-<version>.json`, which says what the state holds and what should become of each job. That takes about 20 seconds.
All processes have ended when it returns, also after an error.

`state-0.1.0.*` were recorded with rqstack 0.1.0 and RQ 2.12.0. A file that is there is not written again: what a
released version leaves in Redis does not change. Only the public interface and the command line are used here, so that
later versions can be recorded too.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import rq
from redis import Redis
from redis.exceptions import RedisError
from rq.command import send_stop_job_command
from rq.group import Group
from rq.job import Callback, Job
from rq.repeat import Repeat

# Not resolved: what tracebacks in the state name is the path by which this file was called.
HERE = Path(__file__).absolute().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT / "src")]

from support.redis_commands import Command, dump, write_file  # noqa: E402

SECRET_KEY = "the key of the recorded state"
MONTH = 30 * 86_400
PATIENCE = 60.0
"""Seconds that an event may take."""

SETTINGS = {
    "RQSTACK_SECRET_KEY": SECRET_KEY,
    # Else most of what has ended would be gone where the state is loaded as if it were old.
    "RQSTACK_RESULT_TTL": str(MONTH),
}


@dataclass
class Expected:
    """A job of the state.

    Args:
        id: Its id.
        kind: What it is an example of.
        expected: The status it should have in the end; "gone" if its record should have expired.
        runs: How often it should run after the state was loaded.
        expected_late: `expected`, where the state is loaded as if it were two days old.
        runs_late: `runs`, likewise.
        status: Its status in the state.
        queue: Its queue.
    """

    id: str
    kind: str
    expected: str
    runs: int
    expected_late: str
    runs_late: int
    status: str = ""
    queue: str = ""


class Recorder:
    """A Redis, the processes on it, and the jobs that are to be in the state.

    Args:
        folder: For logs, and the files by which jobs are held.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("hold", "fail"):
            (folder / name).mkdir()
        (folder / "journal").touch()
        # As a deployment lays it out; so the jobs note a release, and the state names no folder of a checkout.
        tasks = folder / "releases" / "first"
        shutil.copytree(HERE / "site", tasks, ignore=shutil.ignore_patterns("__pycache__"))
        sys.path.insert(0, str(tasks / "depot"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.jobs: dict[str, Expected] = {}
        self.port = _free_port()
        self.client: Any = Redis(port=self.port)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RQSTACK_", "REDIS_"))}
        self.environment = (
            kept
            | SETTINGS
            | {
                "RQSTACK_HOME": str(folder),
                "RQSTACK_TASKS_PATH": str(tasks),
                "REDIS_URL": f"redis://127.0.0.1:{self.port}/0",
                "DEPOT_FOLDER": str(folder),
                "PYTHONPATH": str(ROOT / "src"),
            }
        )
        os.environ.update(self.environment)

    # -- processes

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def start_redis(self) -> None:
        self.start("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no")

        def answers() -> bool:
            with suppress(RedisError):
                return bool(self.client.ping())
            return False

        self.until(answers, "Redis to answer")

    def start_rqstack(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self.start(sys.executable, "-m", "rqstack.cli.main", *arguments)

    def start_worker(self, name: str, queue: str, processes: int = 1) -> subprocess.Popen[bytes]:
        """A worker of one queue; returns when all its processes wait for jobs or run one."""
        process = self.start_rqstack("worker", "run", queue, "--name", name, "--processes", str(processes))
        names = [name] if processes == 1 else [f"{name}-{number}" for number in range(1, processes + 1)]
        for each in names:
            self.until(lambda: self.client.hget(f"rq:worker:{each}", "state") in (b"idle", b"busy"), f"worker {each}")  # noqa: B023
        return process

    def kill(self, supervisor: subprocess.Popen[bytes]) -> None:
        """Kill a supervisor by SIGKILL, and wait until its processes have ended with it."""
        tree = psutil.Process(supervisor.pid).children(recursive=True)
        supervisor.kill()
        supervisor.wait()
        self.processes.remove(supervisor)
        _, alive = psutil.wait_procs(tree, PATIENCE)
        assert not alive, f"still there: {alive}"

    def idle_process(self, supervisor: subprocess.Popen[bytes], *running: str) -> int:
        """The only process of a worker that runs none of these jobs."""
        templates = psutil.Process(supervisor.pid).children()
        horses = {horse.pid for template in templates for horse in template.children()}

        def idle() -> set[int]:
            return horses - {self.journal().get(job_id, 0) for job_id in running}

        self.until(lambda: len(idle()) == 1, "the running jobs")
        return idle().pop()

    def journal(self) -> dict[str, int]:
        """The process of each job's last run."""
        lines = (line.split() for line in (self.folder / "journal").read_text().splitlines())
        return {job_id: int(pid) for job_id, pid in lines}

    def close(self) -> None:
        """End everything that was started, Redis last."""
        for process in reversed(self.processes):
            if process.poll() is not None:
                continue
            tree = psutil.Process(process.pid).children(recursive=True)
            for each in [psutil.Process(process.pid), *tree]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()
        self.client.close()

    # -- jobs

    def note(
        self,
        job: Job,
        kind: str,
        expected: str,
        runs: int = 0,
        late: tuple[str, int] | None = None,
    ) -> Job:
        """Take a job into the list. `late` is what holds instead of `expected` and `runs` after two days."""
        self.jobs[job.id] = Expected(job.id, kind, expected, runs, *(late or (expected, runs)))
        return job

    def hold(self, job_id: str) -> str:
        """Let a job of this id wait in its task. Returns the id."""
        (self.folder / "hold" / job_id).touch()
        return job_id

    def let_fail(self, job_id: str) -> str:
        """Let a job of this id fail. Returns the id."""
        (self.folder / "fail" / job_id).touch()
        return job_id

    # -- waiting

    def until(self, is_so: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain for {what}\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.02)

    def until_status(self, status: str, *job_ids: str) -> None:
        for job_id in job_ids:
            self.until(lambda: self.client.hget(f"rq:job:{job_id}", "status") == status.encode(), f"{job_id} {status}")  # noqa: B023

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pauses all writers, so that what is read is of one moment."""
        self.client.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
        try:
            yield
        finally:
            self.client.execute_command("CLIENT", "UNPAUSE")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the state, in the order in which it comes to be


def ended_jobs(state: Recorder, plain: rq.Queue) -> None:
    """Jobs on `short-running` that a worker has run: finished, failed, stopped, or with a retry to come."""
    from depot import tasks

    quick = {"queue": "short-running"}
    state.note(tasks.pack.enqueue(["order 1"], job_id="finished", **quick), "finished", "finished")
    callbacks = {"on_success": Callback(tasks.on_success), "on_failure": Callback(tasks.on_failure)}
    job = tasks.pack.enqueue(["order 2"], job_id="finished-callback", **callbacks, **quick)
    state.note(job, "finished, its callback was called", "finished")
    job = tasks.pack.enqueue(["order 3"], job_id="finished-forever", result_ttl=-1, **quick)
    state.note(job, "finished, kept for ever", "finished")
    job = tasks.pack.enqueue(["order 4"], job_id="finished-briefly", result_ttl=86_400, **quick)
    state.note(job, "finished, kept for a day", "finished", late=("gone", 0))
    job = plain.enqueue("depot.tasks.pack", "order 5", job_id="finished-rq", meta={"note": "from RQ"})
    state.note(job, "finished, enqueued by rq.Queue", "finished")

    job = tasks.pack.enqueue(["order 6"], job_id=state.let_fail("failed"), **callbacks, **quick)
    state.note(job, "failed, its callback was called", "failed")
    job = tasks.pack.enqueue(["order 7"], job_id="deferred-on-failed", depends_on=job, **quick)
    state.note(job, "deferred, depends on a failed job", "deferred")
    job = tasks.book_courier.enqueue(["order 8"], job_id=state.let_fail("failed-retries"), backoff=None, **quick)
    state.note(job, "failed, after its retries", "failed")
    job = tasks.book_courier.enqueue(["order 9"], job_id=state.let_fail("retry-far"), backoff=MONTH, **quick)
    state.note(job, "waits for a retry in a month", "scheduled")

    stopped = tasks.pack.enqueue(
        ["order 10"], job_id=state.hold("stopped"), on_stopped=Callback(tasks.on_stopped), **quick
    )
    state.note(stopped, "stopped while it ran", "stopped")
    state.until_status("started", "stopped")
    send_stop_job_command(state.client, "stopped", plain.serializer)
    state.until_status("stopped", "stopped")
    state.until_status("finished", *(job_id for job_id in state.jobs if job_id.startswith("finished")))
    state.until_status("failed", "failed", "failed-retries")
    state.until_status("scheduled", "retry-far")


def canceled_job(state: Recorder) -> None:
    """A job on `default` that is canceled before it runs."""
    from depot import tasks

    job = tasks.pack.enqueue(["order 11"], job_id="canceled")
    job.cancel()
    state.note(job, "canceled while it waited", "canceled")


def running_jobs(state: Recorder) -> subprocess.Popen[bytes]:
    """Starts jobs on `long-running`, on a worker that the caller kills. Returns that worker.

    One job was started by another worker before, which was killed; the worker of `short-running` has put it back. One
    job is in the claim list of a process: Redis moved it there while that process was stopped by a signal.
    """
    from depot import tasks

    first = state.start_worker("lost", "long-running")
    job = tasks.pack.enqueue(["order 12"], job_id=state.hold("running-twice"), queue="long-running")
    state.note(job, "running on a dead worker, on another dead one before", "finished", 1)
    state.until_status("started", "running-twice")
    state.kill(first)
    # What comes meanwhile takes no longer than the time after which a worker counts as dead.
    ended_jobs(state, _plain_queue(state, "short-running"))
    state.until_status("queued", "running-twice")

    dead = state.start_worker("dead", "long-running", processes=3)
    job = tasks.pack.enqueue(["order 13"], job_id=state.hold("running-dead"), queue="long-running")
    state.note(job, "running on a dead worker", "finished", 1)
    state.until_status("started", "running-twice", "running-dead")
    busy = {state.client.hget(f"rq:job:{job_id}", "worker_name") for job_id in ("running-twice", "running-dead")}
    (idle,) = {b"dead-1", b"dead-2", b"dead-3"} - busy
    horse = state.idle_process(dead, "running-twice", "running-dead")
    claims = f"rqstack:claim:{idle.decode()}:rq:queue:long-running"
    state.until(lambda: psutil.Process(horse).status() == psutil.STATUS_SLEEPING, "an idle process")
    os.kill(horse, signal.SIGSTOP)
    job = tasks.pack.enqueue(["order 14"], job_id="claimed", queue="long-running")
    state.note(job, "handed to a dead worker, not begun", "finished", 1)
    state.until(lambda: state.client.llen(claims) == 1, "a claim")
    return dead


def live_jobs(state: Recorder) -> None:
    """Jobs on `default`, whose only worker lives and is busy from here on."""
    from depot import tasks

    state.start_worker("live", "default")
    job = tasks.book_courier.enqueue(["order 15"], job_id=state.let_fail("retry-near"))
    state.note(job, "waits for its retry", "finished", 1)
    job = tasks.print_label.enqueue(["order 16"], job_id="rate-first")
    state.note(job, "finished, used up its task's rate", "finished")
    job = tasks.print_label.enqueue(["order 17"], job_id="rate-waiting")
    state.note(job, "put back, over its task's rate", "finished", 1)
    state.until_status("finished", "rate-first")
    state.until_status("scheduled", "retry-near", "rate-waiting")
    job = tasks.pack.enqueue(["order 18"], job_id=state.hold("running-live"))
    state.note(job, "running on a live worker", "finished", 1)
    state.until_status("started", "running-live")


def waiting_jobs(state: Recorder, plain: rq.Queue) -> None:
    """Jobs on `default` that wait for its worker, for their time, or for another job."""
    from depot import tasks

    def queued(job: Job, kind: str = "", runs: int = 1, late: tuple[str, int] | None = None) -> Job:
        return state.note(job, f"queued{kind and ', ' + kind}", "finished", runs, late)

    first = queued(tasks.pack.enqueue(["order 20"], {"parcels": 2}, job_id="queued"))
    queued(tasks.pack.enqueue(["order 21"], job_id="queued-front", at_front=True), "at the front")
    queued(tasks.pack.enqueue(["order 22"], job_id="queued-ttl", ttl=86_400), "for a day at most", late=("gone", 0))
    queued(tasks.pack.enqueue(["order 23"], job_id="queued-timeout", timeout=600, meta={"colour": "red"}), "with meta")
    callbacks = {name: Callback(getattr(tasks, name)) for name in ("on_success", "on_failure", "on_stopped")}
    queued(tasks.pack.enqueue(["order 24"], job_id="queued-callbacks", **callbacks), "with callbacks")
    queued(tasks.pack.enqueue(["order 25"], job_id="queued-repeat", repeat=Repeat(1)), "to be repeated once", 2)
    for job in tasks.pack.enqueue_many([("order 26",), ("order 27",)]):
        queued(job, "by enqueue_many")
    queued(tasks.weigh("order 28"), "by a command's call")
    queued(tasks.track.enqueue(["order 29"], job_id="queued-coroutine"), "a coroutine function")
    queued(tasks.Parcel("order 30").ship.enqueue(["Norway"], job_id="queued-method"), "a method")
    queued(tasks.print_label.enqueue(["order 31"], job_id="rate-queued"), "its task has a rate")
    queued(tasks.count_stock.delay(1), "unique")
    group = Group.create(connection=state.client, name="orders")
    data = [rq.Queue.prepare_data("depot.tasks.pack", (f"order {n}",), job_id=f"queued-group-{n}") for n in (32, 33)]
    for job in group.enqueue_many(plain, data):
        queued(job, "in a group of RQ's")
    queued(plain.enqueue("depot.tasks.pack", "order 34", job_id="queued-rq"), "by rq.Queue")
    queued(
        plain.enqueue("depot.tasks.book_courier", "order 35", job_id="queued-rq-retry", retry=rq.Retry(2, interval=60)),
        "by rq.Queue, with a retry",
    )
    unsigned = rq.Queue("default", connection=state.client)
    job = unsigned.enqueue("depot.tasks.pack", "order 36", job_id="queued-unsigned")
    state.note(job, "queued, by rq.Queue without a signature", "failed")

    def deferred(job: Job, kind: str) -> Job:
        return state.note(job, f"deferred, depends on {kind}", "finished", 1)

    after = deferred(tasks.pack.enqueue(["order 40"], job_id="deferred", depends_on=first), "a queued job")
    both = [after, Job.fetch("running-dead", connection=state.client, serializer=plain.serializer)]
    deferred(
        tasks.pack.enqueue(["order 41"], job_id="deferred-on-two", depends_on=both), "a deferred and a running one"
    )
    deferred(
        tasks.pack.enqueue(["order 42"], job_id="deferred-on-retry", depends_on="retry-near"), "a job that is retried"
    )
    deferred(
        plain.enqueue("depot.tasks.pack", "order 43", job_id="deferred-rq", depends_on="queued-rq"), "one, by rq.Queue"
    )

    job = tasks.pack.enqueue(["order 50"], job_id="scheduled", in_=timedelta(seconds=15))
    state.note(job, "scheduled", "finished", 1)
    job = plain.enqueue_in(timedelta(seconds=15), "depot.tasks.pack", "order 51", job_id="scheduled-rq")
    state.note(job, "scheduled, by rq.Queue", "finished", 1)
    job = tasks.count_stock.schedule(2, in_=timedelta(seconds=15))
    state.note(job, "scheduled, unique", "finished", 1)
    job = tasks.pack.enqueue(["order 52"], job_id="scheduled-far", at=datetime.now(UTC) + timedelta(days=30))
    state.note(job, "scheduled for next month", "scheduled")


def messages(state: Recorder) -> subprocess.Popen[bytes]:
    """Two messages of a backend in Redis: one is held by a consumer, which the caller kills; one waits.

    Returns the consumer.
    """
    backend = {"QUEUE_BACKEND": "rqstack.backends.RedisQueue"}
    state.hold("message-1")
    consumer = state.start_rqstack("worker", "run", "mail", "--backend", backend["QUEUE_BACKEND"])
    # In a process of its own: the settings of this one send jobs to RQ's queues.
    send = "from depot.tasks import pack; [pack.enqueue([name], queue='mail') for name in ('message-1', 'message-2')]"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", send], env=state.environment | backend | {"PYTHONPATH": path}, check=True)
    state.until(lambda: "message-1" in state.journal(), "a consumer")
    return consumer


def cron_table(state: Recorder) -> None:
    """The declared lines, and one made at run time. One of them fires every ten seconds."""
    from depot import tasks

    from rqstack.scheduling import job_scheduler

    job_scheduler(tasks.restock, ["shelf 3"], cron="0 0 1 1 *", name="restock by hand", max_retries=2)
    state.until(lambda: state.client.zcard("rqstack:cron:next") == 4, "the cron table")


def _plain_queue(state: Recorder, name: str) -> rq.Queue:
    """RQ's own queue, with the serializer that RQ's commands are given by `-S rqstack.security.Default`."""
    from rqstack.security import Default

    return rq.Queue(name, connection=state.client, serializer=Default)


# -- writing it down


def record(state: Recorder) -> tuple[list[Command], dict[str, Any]]:
    """The commands, and what the state holds."""
    with state.paused():
        seconds, micros = state.client.time()
        commands = dump(state.client)
        supervisors = [
            name.decode()
            for key in ("rqstack:supervisors", "rqstack:supervisors:dead")
            for name in state.client.zrange(key, 0, -1)
        ]
        schedulers = [key.decode().rpartition(":")[2] for key in state.client.smembers("rqstack:schedulers")]
        fired = {
            entry.decode(): int(state.client.hget(b"rqstack:cron:state:" + entry, "fired") or 0)
            for entry in state.client.zrange("rqstack:cron:next", 0, -1)
        }
    records: dict[str, dict[str, str]] = {}
    for name, key, *rest in commands:
        if name == b"HSET" and key.startswith(b"rq:job:") and rest[0] in (b"status", b"origin"):
            records.setdefault(key.decode().removeprefix("rq:job:"), {})[rest[0].decode()] = rest[1].decode()
    for job_id, found in records.items():
        if job_id.startswith("cron-"):
            runs = int(found["status"] != "finished")
            state.jobs[job_id] = Expected(job_id, "fired by the cron table", "finished", runs, "finished", runs)
    assert state.jobs.keys() == records.keys()
    assert any(fired.values())
    for job in state.jobs.values():
        job.status, job.queue = records[job.id]["status"], records[job.id]["origin"]
    contents = {
        "rqstack": version("rqstack"),
        "rq": version("rq"),
        "redis": state.client.info("server")["redis_version"],
        "python": platform.python_version(),
        "recorded_at": seconds + micros / 1e6,
        "recorded": datetime.fromtimestamp(seconds, UTC).isoformat(),
        "secret_key": SECRET_KEY,
        "supervisors": supervisors,
        "schedulers": schedulers,
        "workers": {"live": ["live", "quick"], "dead": ["dead-1", "dead-2", "dead-3"]},
        "cron": {entry: {"fired": number} for entry, number in sorted(fired.items())},
        "messages": {"mail": ["message-1", "message-2"]},
        "jobs": [asdict(job) for job in sorted(state.jobs.values(), key=lambda job: job.id)],
    }
    return commands, contents


def main() -> None:
    """Record the state of the version that is installed."""
    stem = HERE / f"state-{version('rqstack')}"
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("redis", "json")]
    if existing := [path.name for path in files if path.exists()]:
        sys.exit(f"{' and '.join(existing)} exists already. Delete it to record this version again.")
    with tempfile.TemporaryDirectory(prefix="rqstack-state-") as folder:
        state = Recorder(Path(folder))
        try:
            state.start_redis()
            state.start_rqstack("scheduler")
            cron_table(state)
            state.start_worker("quick", "short-running")
            canceled_job(state)
            dead = running_jobs(state)
            consumer = messages(state)
            live_jobs(state)
            waiting_jobs(state, _plain_queue(state, "default"))
            state.kill(consumer)
            state.kill(dead)
            commands, contents = record(state)
            assert [process.args for process in state.processes if process.poll() is not None] == []
        finally:
            state.close()
    write_file(files[0], commands)
    files[1].write_text(json.dumps(contents, indent=1) + "\n")
    print(f"{len(commands)} commands, {len(contents['jobs'])} jobs: {stem.name}.*")


if __name__ == "__main__":
    main()
