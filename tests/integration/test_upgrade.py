"""What an earlier version left in Redis is taken over: every job, the cron table, and the places of dead workers.

`tests/data/make_state.py` has recorded the states, and says for each job what should become of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import pytest
from rq.job import Job

from support.processes import environment_without, rqstack_command, start
from support.redis_commands import aged, load, read_file
from support.redis_server import RedisServer
from support.waiting import until

DATA = Path(__file__).resolve().parents[1] / "data"
STATES = sorted(DATA.glob("state-*.json"))
assert STATES, "the recorded states are missing"
AGES = {"just now": 0, "two days ago": 2 * 86_400}
PATIENCE = 100
"""Seconds within which all is taken over. What takes longest is the second look at a dead worker, after 30 s."""

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Outcome:
    """What became of a state, when nothing was left to do.

    Args:
        statuses: The status of each job of the state; "gone" where it has no record.
        runs: Ids of jobs and names of messages, in the order in which they were run.
        keys: All keys.
    """

    statuses: dict[str, str]
    runs: list[str]
    keys: set[str]


class Upgrade:
    """A recorded state in a Redis, and the present version at work on it.

    Args:
        server: The Redis; it runs.
        folder: For logs and the journal of the tasks.
        recorded: The description of the state.
        age: Seconds since it was recorded.
    """

    def __init__(self, server: RedisServer, folder: Path, recorded: Path, age: float) -> None:
        self.state: dict[str, Any] = json.loads(recorded.read_text())
        self.jobs: list[dict[str, Any]] = self.state["jobs"]
        self.is_late = age > 0
        self.folder = folder
        (folder / "journal").touch()
        self.client = server.client()
        kept = environment_without("RQSTACK_", "REDIS_")
        self.settings = {
            "REDIS_URL": server.url,
            "RQSTACK_HOME": str(folder),
            "RQSTACK_SECRET_KEY": self.state["secret_key"],
            "RQSTACK_TASKS_PATH": str(DATA / "site"),
            "RQSTACK_HEARTBEAT": "0.5",
            "RQSTACK_DEAD_AFTER": "2",
        }
        self.environment = kept | self.settings | {"DEPOT_FOLDER": str(folder)}
        self.processes: list[subprocess.Popen[bytes]] = []
        seconds, micros = self.client.time()
        commands = read_file(recorded.with_suffix(".redis"))
        load(
            self.client,
            aged(commands, recorded_at=self.state["recorded_at"], now=seconds + micros / 1e6, age=age),
        )
        self.fired_until = {entry: self.cron_state(entry)[1] for entry in self.state["cron"]}
        self.queued_again = self.run("trigger", "depot.tasks.count_stock", "1").strip()
        self.queued = [job_id.decode() for job_id in self.client.lrange("rq:queue:default", 0, -1)]

    # -- processes

    def start(self) -> None:
        """A worker of all queues, a consumer of messages, and a scheduler."""
        self.deadline = time.monotonic() + PATIENCE
        self._start("worker", "run", "short-running", "default", "long-running", "--processes", "1", "--name", "new")
        self._start("worker", "run", "mail", "--processes", "1", "--backend", "rqstack.backends.RedisQueue")
        self._start("scheduler")

    def _start(self, *arguments: str) -> None:
        command = rqstack_command(*arguments)
        self.processes.append(start(command, self.folder / "log", env=self.environment, cwd=self.folder))

    def run(self, *arguments: str, code: int = 0) -> str:
        """`rqstack …` to its end. Returns what it printed."""
        return self.run_command(*rqstack_command(*arguments), code=code)

    def run_command(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                for each in tree:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
                process.wait()
        self.client.close()

    # -- what is in Redis

    def status(self, job_id: str) -> str:
        return str((self.client.hget(f"rq:job:{job_id}", "status") or b"gone").decode())

    def statuses(self) -> dict[str, str]:
        return {job["id"]: self.status(job["id"]) for job in self.jobs}

    def expected(self) -> dict[str, str]:
        """The status that each job should have in the end."""
        return {job["id"]: job["expected_late" if self.is_late else "expected"] for job in self.jobs}

    def expected_runs(self) -> dict[str, int]:
        """How often each job should be run."""
        return {job["id"]: job["runs_late" if self.is_late else "runs"] for job in self.jobs}

    def runs(self) -> list[str]:
        return [line.split()[0] for line in (self.folder / "journal").read_text().splitlines()]

    def cron_state(self, entry: str) -> tuple[int, int]:
        """How often a line of the cron table has fired, and the last firing that was decided."""
        fired, last = self.client.hmget(f"rqstack:cron:state:{entry}", "fired", "last")
        return int(fired or 0), int(last)

    def firings(self, entry: str) -> list[int]:
        """The firings of a line since the state was loaded for which there is a job, in Unix seconds."""
        prefix = f"rq:job:cron-{entry}-"
        times = [key.decode().removeprefix(prefix) for key in self.client.scan_iter(f"{prefix}*", count=1000)]
        found = [int(datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()) for text in times]
        return sorted(time for time in found if f"cron-{entry}-{_stamp(time)}" not in self.expected())

    def old_processes(self) -> set[str]:
        """Keys of processes of the state that are still there, and their places in rqstack's sets."""
        members = {
            f"{name}: {member.decode()}"
            for name, members in {
                "rqstack:supervisors": self.client.zrange("rqstack:supervisors", 0, -1),
                "rqstack:supervisors:dead": self.client.zrange("rqstack:supervisors:dead", 0, -1),
                "rqstack:schedulers": self.client.smembers("rqstack:schedulers"),
                "rq:workers": self.client.smembers("rq:workers"),
                **{f"rq:workers:{queue}": self.client.smembers(f"rq:workers:{queue}") for queue in self.queues},
            }.items()
            for member in members
        }
        patterns = ("rqstack:supervisor:*", "rqstack:running:*", "rqstack:scheduler:*", "rqstack:claim:*")
        keys = {key.decode() for pattern in (*patterns, "rq:worker:*") for key in self.client.scan_iter(pattern)}
        return {name for name in members | keys if any(old in name for old in self.old_names)}

    @cached_property
    def queues(self) -> set[str]:
        return {job["queue"] for job in self.jobs}

    @cached_property
    def old_names(self) -> list[str]:
        """What names of the keys of the state's processes contain."""
        workers = [name for names in self.state["workers"].values() for name in names]
        return [*self.state["supervisors"], *self.state["schedulers"], *(f"worker:{name}" for name in workers)]

    # -- waiting

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        until(condition, seconds, log=lambda: (self.folder / "log").read_text()[-6000:])

    @cached_property
    def outcome(self) -> Outcome:
        """What became of the state. Waits until nothing is left to do, or so long that something is wrong."""

        def is_settled() -> bool:
            return (
                self.statuses() == self.expected()
                and not self.old_processes()
                and set(self.state["messages"]["mail"]) <= set(self.runs())
                and all(len(self.firings(entry)) >= 2 for entry in self.state["cron"] if "often" in entry)
            )

        while not is_settled() and time.monotonic() < self.deadline:
            time.sleep(0.1)
        return Outcome(self.statuses(), self.runs(), {key.decode() for key in self.client.scan_iter(count=1000)})


def _stamp(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y%m%dT%H%M%SZ")


@pytest.fixture(scope="module", params=STATES, ids=[path.stem for path in STATES])
def upgrades(request: pytest.FixtureRequest) -> Iterator[dict[str, Upgrade]]:
    """A state at each age, on a Redis of its own. They are at work at the same time, since most of it is waiting."""
    with ExitStack() as stack:
        made = {}
        for name, age in AGES.items():
            server = RedisServer()
            stack.callback(server.close)
            server.start()
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rqstack-upgrade-"))
            made[name] = Upgrade(server, Path(folder), request.param, age)
            stack.callback(made[name].close)
        for upgrade in made.values():
            upgrade.start()
        yield made


@pytest.fixture(params=AGES)
def upgrade(request: pytest.FixtureRequest, upgrades: dict[str, Upgrade], monkeypatch: pytest.MonkeyPatch) -> Upgrade:
    """A state and its processes. What this test's process asks uses the same settings."""
    found = upgrades[request.param]
    for name, value in found.settings.items():
        monkeypatch.setenv(name, value)
    return found


def test_every_job_ends_as_it_should(upgrade: Upgrade) -> None:
    assert upgrade.outcome.statuses == upgrade.expected()


def test_every_job_is_run_as_often_as_it_should(upgrade: Upgrade) -> None:
    runs = upgrade.outcome.runs
    assert {job_id: runs.count(job_id) for job_id in upgrade.expected()} == upgrade.expected_runs()


def test_messages_of_another_backend_are_run(upgrade: Upgrade) -> None:
    for name in upgrade.state["messages"]["mail"]:
        assert upgrade.outcome.runs.count(name) == 1
    assert {key for key in upgrade.outcome.keys if key.startswith("rqstack:messages:mail:inbox:")} == set()
    assert upgrade.client.llen("rqstack:messages:mail") == 0


def test_jobs_keep_their_order(upgrade: Upgrade) -> None:
    in_order = ["queued-front", "queued", "queued-timeout", "queued-callbacks", "queued-rq", "queued-rq-retry"]
    assert [job_id for job_id in upgrade.outcome.runs if job_id in in_order] == in_order


def test_a_unique_job_is_not_enqueued_again(upgrade: Upgrade) -> None:
    assert upgrade.queued_again in upgrade.expected()
    assert upgrade.queued.count(upgrade.queued_again) == 1


def test_nothing_is_left_of_the_processes_before(upgrade: Upgrade) -> None:
    assert upgrade.outcome
    assert upgrade.old_processes() == set()
    left = ("rq:execution", "rqstack:claim:")
    assert {key for key in upgrade.outcome.keys if key.startswith(left)} == set()
    for queue in upgrade.queues:
        assert upgrade.client.zcard(f"rq:wip:{queue}") == 0


def test_results_are_readable(upgrade: Upgrade) -> None:
    from rqstack.security import get_job_serializer

    assert upgrade.outcome
    values = {
        "finished": "order 1 in 1",
        "finished-callback": "order 2 in 1",
        "finished-forever": "order 3 in 1",
        "finished-rq": "order 5 in 1",
        "running-twice": "order 12 in 1",
        "queued": "order 20 in 2",
        "queued-coroutine": "order 29 is on its way",
        "queued-method": "order 30 to Norway",
        "rate-waiting": "label of order 17",
    }
    for job_id, value in values.items():
        job = Job.fetch(job_id, connection=upgrade.client, serializer=get_job_serializer())
        assert job.return_value() == value
    assert upgrade.run("result", "finished").strip() == "order 1 in 1"
    assert upgrade.client.get("depot:success:queued-callbacks") == b"order 24 in 1"
    job = Job.fetch("queued-timeout", connection=upgrade.client, serializer=get_job_serializer())
    assert (job.meta["colour"], job.timeout) == ("red", 600)


def test_reasons_are_readable(upgrade: Upgrade) -> None:
    assert upgrade.outcome
    said = upgrade.run("result", "failed", "--traceback", code=1)
    assert said.startswith("Traceback")
    assert said.rstrip().endswith("depot.tasks.CourierAway: no courier for failed")
    assert "stopped" in upgrade.run("result", "stopped", code=1)
    assert "signature" in upgrade.run("result", "queued-unsigned", code=1)


def test_the_cron_table_is_kept(upgrade: Upgrade) -> None:
    from rqstack.scheduling import Scheduler

    assert upgrade.outcome
    with Scheduler() as scheduler:
        lines = {entry.id: (entry.name, entry.timetable.text) for entry, _ in scheduler.cron_jobs()}
    assert lines.keys() == upgrade.state["cron"].keys()
    assert sorted(lines.values()) == [
        ("depot.tasks.close_day", "30 4 * * *"),
        ("restock by hand", "0 0 1 1 *"),
        ("restock often", "every 10 s"),
        ("restock yearly", "0 0 1 1 *"),
    ]


def test_each_firing_is_one_job(upgrade: Upgrade) -> None:
    runs = upgrade.outcome.runs
    for entry, before in upgrade.state["cron"].items():
        # Another firing may come while this looks.
        upgrade.until(lambda: len(upgrade.firings(entry)) == upgrade.cron_state(entry)[0] - before["fired"])  # noqa: B023
        firings = upgrade.firings(entry)
        assert all(firing > upgrade.fired_until[entry] for firing in firings)
        if "often" in entry:
            assert firings == list(range(firings[0], firings[0] + 10 * len(firings), 10))
            assert upgrade.is_late or firings[0] - upgrade.fired_until[entry] <= 10
        elif "close-day" in entry and upgrade.is_late:
            assert len(firings) == 1
        for firing in firings:
            assert runs.count(f"cron-{entry}-{_stamp(firing)}") <= 1
        if firings:
            assert runs.count(f"cron-{entry}-{_stamp(firings[0])}") == 1


def test_the_commands_show_the_present(upgrade: Upgrade) -> None:
    assert upgrade.outcome
    shown = json.loads(upgrade.run("info", "--json"))
    assert [worker["name"] for worker in shown["workers"]] == ["new"]
    failed = {queue["name"]: queue["failed"] for queue in shown["queues"]}
    assert {name: failed[name] for name in upgrade.queues} == {"short-running": 3, "default": 1, "long-running": 0}
    said = upgrade.run_command(str(Path(sys.executable).parent / "rq"), "info", "--url", upgrade.settings["REDIS_URL"])
    assert "1 workers" in said
    assert "new" in said
    upgrade.run("health", "--queue", "default")
    upgrade.run("health", "--scheduler")


def test_a_failed_job_is_run_again(upgrade: Upgrade) -> None:
    assert upgrade.outcome
    assert "1 job requeued" in upgrade.run("requeue", "failed")
    upgrade.until(lambda: upgrade.status("failed") == upgrade.status("deferred-on-failed") == "finished")
    assert upgrade.runs().count("failed") == upgrade.runs().count("deferred-on-failed") == 1
    assert upgrade.run("result", "failed").strip() == "order 6 in 1"


def test_the_processes_stop(upgrade: Upgrade) -> None:
    assert upgrade.outcome
    for process in upgrade.processes:
        process.terminate()
    assert [process.wait(60) for process in upgrade.processes] == [0, 0, 0]
    assert upgrade.client.zcard("rqstack:supervisors") == 0
    assert upgrade.client.scard("rqstack:schedulers") == 0


@pytest.mark.parametrize("recorded", STATES, ids=[path.stem for path in STATES])
def test_running_jobs_are_run_again_with_default_settings(
    own_redis: RedisServer, tmp_path: Path, recorded: Path
) -> None:
    """All workers were away for longer than RQ's registries wait. The defaults decide what a supervisor does first."""
    upgrade = Upgrade(own_redis, tmp_path, recorded, AGES["two days ago"])
    for name in ("RQSTACK_HEARTBEAT", "RQSTACK_DEAD_AFTER"):
        del upgrade.environment[name]
    running = [job["id"] for job in upgrade.jobs if job["status"] == "started"]
    try:
        upgrade.start()
        upgrade.until(lambda: {upgrade.status(job_id) for job_id in running} <= {"finished", "failed"})
        assert {job_id: upgrade.status(job_id) for job_id in running} == dict.fromkeys(running, "finished")
    finally:
        upgrade.close()
