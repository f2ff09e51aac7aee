"""Two releases on one Redis: which may join, which are refused, and what becomes of a damaged version."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from rqstack.transport import schema
from support.processes import end, rqstack_command, start
from support.redis_server import RedisServer
from support.worker_site import Site

PROCESSES = {
    "worker": rqstack_command("worker", "run", "default"),
    "scheduler": rqstack_command("scheduler"),
    "consumer": rqstack_command("worker", "run", "mail", "--backend", "rqstack.backends.RedisQueue"),
    "rq worker": [str(Path(sys.executable).parent / "rq"), "worker", "-w", "rqstack.worker.Worker", "default"],
}
NEXT_RELEASE = """
import sys
from rqstack.transport import schema
schema.VERSION, schema.OLDEST = {version}, {oldest}
sys.argv[0] = "rqstack"
from rqstack.cli.main import main
main()
"""


@pytest.fixture
def site(tmp_path: Path, redis_server: RedisServer, connection: Redis) -> Iterator[Site]:
    """A home and an empty Redis."""
    made = Site(tmp_path, redis_server)
    made.environment["RQ_REDIS_URL"] = redis_server.url  # for `rq worker`
    made.add_project()
    try:
        yield made
    finally:
        made.close()


def begin(site: Site, kind: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process of this release."""
    site.started.append(start(PROCESSES[kind], site.log, env=site.environment | environment, cwd=site.folder))
    return site.started[-1]


def begin_release(site: Site, version: int, oldest: int, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a process of a release with another schema version."""
    code = NEXT_RELEASE.format(version=version, oldest=oldest)
    command = [sys.executable, "-c", code, *arguments]
    site.started.append(start(command, site.log, env=site.environment, cwd=site.folder))
    return site.started[-1]


def stored(site: Site) -> tuple[int, int] | None:
    """The version in Redis, and the oldest that may share it."""
    if site.redis.type("rqstack:schema") != b"hash":
        return None
    version, oldest = site.redis.hmget("rqstack:schema", "version", "oldest")
    return (int(version), int(oldest)) if version and oldest and version.isdigit() and oldest.isdigit() else None


def until_up(site: Site, kind: str) -> None:
    """Wait until the only process of this kind runs, so that it can be stopped in order."""
    if kind == "consumer":
        site.until(lambda: "Consuming" in site.output())
    else:
        site.until(lambda: site.redis.zcard("rqstack:supervisors") or site.redis.smembers("rqstack:schedulers"))


OURS = (schema.VERSION, schema.OLDEST)


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_version_from_the_future_is_refused(site: Site, kind: str) -> None:
    site.redis.hset("rqstack:schema", mapping={"version": 9, "oldest": 7})
    job = site.queue().enqueue("shop.tasks.double", 2)
    site.redis.rpush("rqstack:messages:mail", b"a message")
    before = {key: site.redis.dump(key) for key in site.redis.scan_iter()}
    # RQ's command has its own option for Redis: the sentence names what is used.
    elsewhere = {"REDIS_URL": "redis://127.0.0.1:1/0"} if kind == "rq worker" else {}
    assert begin(site, kind, **elsewhere).wait(60) == 1
    (line,) = [line for line in site.output().splitlines() if "schema" in line]
    assert line.endswith(
        f"The data in Redis at {site.server.url} is of rqstack schema 9 and needs at least schema 7; this release has "
        f"schema {schema.VERSION}. Update rqstack, or use another Redis or RQ_KEY_PREFIX."
    )
    assert "Traceback" not in site.output()
    after = {key: site.redis.dump(key) for key in site.redis.scan_iter()}
    assert after == before
    assert site.status(job.id) == "queued"


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_newer_version_that_may_be_shared_is_joined(site: Site, kind: str) -> None:
    site.redis.hset("rqstack:schema", mapping={"version": 9, "oldest": schema.VERSION})
    process = begin(site, kind)
    until_up(site, kind)
    assert site.stop(process) == 0
    assert stored(site) == (9, schema.VERSION)


DAMAGE: dict[str, dict[str, str]] = {
    "text": {"version": "\x00'; drop", "oldest": "one"},
    "negative": {"version": "-1", "oldest": "-7"},
    "lower than oldest": {"version": "2", "oldest": "3"},
    "huge": {"version": "9" * 400, "oldest": "9" * 400},
    "half": {"oldest": "9"},
    "list": {},
}


@pytest.mark.parametrize(
    ("kind", "how"), [*(("worker", how) for how in DAMAGE), *((kind, "text") for kind in PROCESSES if kind != "worker")]
)
def test_a_damaged_version_is_reported_and_written_anew(site: Site, kind: str, how: str) -> None:
    if DAMAGE[how]:
        site.redis.hset("rqstack:schema", mapping=DAMAGE[how])
    else:
        site.redis.rpush("rqstack:schema", "1")
    process = begin(site, kind)
    until_up(site, kind)
    assert stored(site) == OURS
    site.until(lambda: "rqstack:schema is damaged (" in site.output())
    assert site.stop(process) == 0
    assert site.output().count("is damaged (") == 1


def test_the_version_comes_back_after_flushall(site: Site) -> None:
    for kind in ("worker", "scheduler"):
        process = begin(site, kind)
        until_up(site, kind)
        site.redis.flushall()
        site.until(lambda: stored(site) == OURS)
        assert site.stop(process) == 0
        site.redis.flushall()


def test_a_rolling_update_of_neighbours(site: Site) -> None:
    """Old and new run side by side, every job runs once, and an old process may still start."""
    old = begin(site, "worker")
    site.until_idle(1)
    new_version = schema.VERSION + 1
    new = begin_release(site, new_version, schema.VERSION, "worker", "run", "default")
    site.until_idle(2)
    assert stored(site) == (new_version, schema.VERSION)
    ids = [site.queue().enqueue("shop.tasks.double", number).id for number in range(40)]
    again = begin(site, "worker")
    site.until_idle(3)
    site.until_ended(*ids)
    assert {job_id: site.status(job_id) for job_id in ids} == dict.fromkeys(ids, "finished")
    assert sorted(site.queue().finished_job_registry.get_job_ids()) == sorted(ids)
    assert [site.stop(process) for process in (old, new, again)] == [0, 0, 0]
    assert stored(site) == (new_version, schema.VERSION)


@pytest.mark.parametrize("kind", ["worker", "scheduler"])
def test_an_older_process_that_lives_keeps_an_incompatible_one_out(site: Site, kind: str) -> None:
    old = begin(site, kind)
    until_up(site, kind)
    far = schema.VERSION + 5
    new = begin_release(site, far, far, "worker", "run", "default", "--name", "new")
    assert new.wait(60) == 1
    (line,) = [line for line in site.output().splitlines() if line.startswith("Error:")]
    assert line.startswith(
        f"Error: Redis at {site.server.url} is in use by {'supervisor' if kind == 'worker' else kind} "
    )
    assert f"of an older rqstack (schema {schema.VERSION}), which cannot share its data" in line
    assert stored(site) == OURS
    assert old.poll() is None
    assert site.stop(old) == 0
    new = begin_release(site, far, far, "worker", "run", "default", "--name", "new")
    site.until_idle(1)
    assert stored(site) == (far, far)
    assert site.stop(new) == 0


@pytest.mark.parametrize("kind", ["worker", "scheduler"])
def test_an_older_process_that_was_killed_is_waited_out(site: Site, kind: str) -> None:
    old = begin(site, kind)
    until_up(site, kind)
    old.kill()
    old.wait()
    far = schema.VERSION + 5
    new = begin_release(site, far, far, "worker", "run", "default", "--name", "new")
    site.until(lambda: [worker.name for worker in site.workers() if worker.get_state() == "idle"] == ["new"])
    assert stored(site) == (far, far)
    assert site.stop(new) == 0


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_that_was_away_during_an_incompatible_update_ends(site: Site, kind: str) -> None:
    """It was cut off or frozen, and a newer release has taken over meanwhile."""
    process = begin(site, kind)
    until_up(site, kind)
    process.send_signal(signal.SIGSTOP)
    site.redis.hset("rqstack:schema", mapping={"version": 9, "oldest": 9})
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 1
    site.until(lambda: "is of rqstack schema 9 and needs at least schema 9" in site.output())
    assert stored(site) == (9, 9)


class Version1:
    """The record that processes of 0.1.0 keep: without a schema version."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def beat(self) -> None:
        seconds, micros = self.site.redis.time()
        self.site.redis.zadd("rqstack:supervisors", {"old-1": seconds + micros / 1e6})
        record = {"hostname": "old", "queues": '["default"]', "workers": '["old"]'}
        self.site.redis.hset("rqstack:supervisor:old-1", mapping=record)


def test_a_worker_of_0_1_0_that_lives_keeps_this_release_out(site: Site) -> None:
    old = Version1(site)
    old.beat()
    process = begin(site, "worker")

    def refused() -> bool:
        old.beat()
        return process.poll() is not None

    site.until(refused)
    assert process.returncode == 1
    assert "is in use by supervisor old-1 of an older rqstack (schema 1)" in site.output()
    assert stored(site) is None
    process = begin(site, "worker")  # now the old one is dead
    site.until(lambda: stored(site) == OURS)
    site.until(lambda: site.redis.zscore("rqstack:supervisors", "old-1") is None)
    assert site.stop(process) == 0


def test_damaged_records_of_other_processes_keep_nobody_out(site: Site) -> None:
    site.redis.zadd("rqstack:supervisors", {"text": 9e9, "nothing": 9e9, "odd\nname": 9e9, "wrong": 9e9})
    site.redis.set("rqstack:supervisor:text", "x")
    site.redis.hset("rqstack:supervisor:wrong", mapping={"queues": "x", "schema": "x"})
    site.redis.sadd("rqstack:schedulers", "rqstack:scheduler:gone", "elsewhere", "rqstack:scheduler:list")
    site.redis.rpush("rqstack:scheduler:list", 1)
    process = begin(site, "worker")
    site.until_idle(1)
    assert stored(site) == OURS
    assert site.stop(process) == 0


def test_the_wait_for_a_version_can_be_stopped(site: Site) -> None:
    Version1(site).beat()
    for kind in ("worker", "scheduler", "consumer"):
        site.redis.config_resetstat()
        process = begin(site, kind, RQSTACK_DEAD_AFTER="500")
        site.until(lambda: "cmdstat_zrangebyscore" in site.redis.info("commandstats"))
        end(process)
        assert process.returncode in (0, -signal.SIGTERM)
        assert stored(site) is None
