"""The real `rqstack scheduler`: its table from task code, reloads, signals, and a Redis that comes late."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue
from rq.job import JobStatus

from rqstack.scheduling import Scheduler
from rqstack.scheduling.table import CronTable
from support.paths import PROJECTS
from support.processes import rqstack_command
from support.projects import copy_project
from support.redis_server import RedisServer
from support.schedulers import SchedulerProcess, read_heartbeats
from support.waiting import until


class Project:
    """A task project in the home of the test."""

    def __init__(self, folder: Path, name: str = "demo") -> None:
        self.name = name
        self.package = copy_project("periodic", folder, name=name)
        (self.package / "cron.py").unlink()

    def write(self, cron: str = "", tasks: str = "") -> None:
        if tasks:
            with (self.package / "tasks.py").open("a") as file:
                file.write(tasks)
        if cron:
            (self.package / "cron.py").write_text(f"from rqstack.scheduling import job_scheduler, schedule\n{cron}")


Start = Callable[..., SchedulerProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[SchedulerProcess] = []

    def begin(**environment: str) -> SchedulerProcess:
        started.append(SchedulerProcess(tmp_path / f"scheduler-{len(started)}.log", **environment))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "tasks")


def names(connection: Redis) -> set[str]:
    return {entry.name for entry, _ in CronTable(connection).entries()}


def test_it_fires_what_the_code_declares(
    redis_url: str, connection: Redis, project: Project, start: Start, tmp_path: Path
) -> None:
    project.write(
        cron="""
from demo.tasks import add
schedule(add, "* * * * * *", args=(1,), kwargs={"b": 2}, name="each second", queue="short-running")
schedule(add, every=3600, args=(2,), name="hourly")
job_scheduler(add, function_args=(3,), cron="@daily", name="daily")
""",
        tasks="""
@task(cron="0 3 * * *", timezone="Europe/London", misfire_grace=7, queue="long-running")
def nightly(): ...
""",
    )
    process = start()
    until(lambda: connection.llen("rq:queue:short-running") >= 2)
    lines = {entry.name: entry for entry, _ in CronTable(connection).entries()}
    assert lines.keys() == {"each second", "hourly", "daily", "demo.tasks.nightly"}
    nightly = lines["demo.tasks.nightly"]
    assert (nightly.timetable.text, nightly.timetable.zone) == ("0 3 * * *", "Europe/London")
    assert (nightly.misfire_grace, nightly.queue) == (7, "long-running")
    assert {entry.source for entry in lines.values()} == {"declared:demo"}
    with Scheduler() as scheduler:
        job = scheduler.get_queue("short-running").jobs[0]
        assert (job.func_name, job.args, job.kwargs) == ("demo.tasks.add", (1,), {"b": 2})
    (info,) = read_heartbeats(connection)
    assert (info.pid, info.hostname) == (process.process.pid, socket.gethostname())
    health = rqstack_command("health", "--scheduler")
    assert subprocess.run(health, check=False, capture_output=True).returncode == 0
    assert process.stop() == 0
    assert read_heartbeats(connection) == []
    assert subprocess.run(health, check=False, capture_output=True).returncode == 1


def test_a_restart_replaces_the_table(redis_url: str, connection: Redis, project: Project, start: Start) -> None:
    project.write(
        cron='from demo.tasks import add\nfor n in range(3): schedule(add, "@daily", args=(n,), name=f"n{n}")'
    )
    process = start()
    until(lambda: process.said("3 added"))
    with Scheduler() as scheduler:
        scheduler.cron("default", "@daily", "demo.tasks.add", (9,), name="run time")
    assert process.stop(signal.SIGINT) == 0
    project.write(cron='from demo.tasks import add\nschedule(add, "@daily", args=(1,), name="n1")')
    process = start()
    until(lambda: process.said("0 added, 0 changed, 1 unchanged, 2 removed"))
    assert names(connection) == {"n1", "run time"}
    project.write(cron='from demo.tasks import add\nschedule(add, "@hourly", args=(1,), name="n1")')
    process.process.send_signal(signal.SIGHUP)
    until(lambda: process.said("0 added, 1 changed, 0 unchanged, 0 removed"))
    assert process.stop() == 0


def test_a_module_of_no_project_has_its_cron_table_beside_it(
    redis_url: str, connection: Redis, start: Start, tmp_path: Path
) -> None:
    package = tmp_path / "shop"
    shutil.copytree(PROJECTS / "periodic" / "periodic", package)
    (package / "cron.py").write_text(
        "from rqstack.scheduling import schedule\nfrom shop.tasks import add\nprint('imported')\n"
        "schedule(add, '@daily', args=(1,), name='in the shop')\n"
    )
    process = start(RQSTACK_MODULES="shop.tasks", PYTHONPATH=str(tmp_path))
    until(lambda: names(connection) == {"in the shop"})
    assert process.said("imported")
    assert process.stop() == 0


def test_schedulers_of_different_projects_leave_each_other_alone(
    redis_url: str, connection: Redis, start: Start, tmp_path: Path
) -> None:
    projects = [Project(tmp_path / "tasks", name) for name in ("one", "two")]
    for project in projects:
        project.write(cron=f'schedule("{project.name}.tasks.add", "@daily", args=(1,), name="of {project.name}")')
    first = start(RQSTACK_PROJECTS="one")
    until(lambda: first.said("1 added, 0 changed, 0 unchanged, 0 removed"))
    second = start(RQSTACK_PROJECTS="two")
    until(lambda: second.said("1 added, 0 changed, 0 unchanged, 0 removed"))
    projects[0].write(cron="pass")
    first.process.send_signal(signal.SIGHUP)
    until(lambda: names(connection) == {"of two"})
    projects[1].write(cron="pass")
    both = start()
    until(lambda: both.said("0 added, 0 changed, 0 unchanged, 1 removed"))
    assert names(connection) == set()


def test_a_new_release_is_noticed_and_a_broken_one_takes_nothing_away(
    redis_url: str, connection: Redis, start: Start, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    for release, cron in {
        "one": 'schedule("demo.tasks.add", "@daily", args=(1,), name="first")',
        "two": 'schedule("demo.tasks.add", "@daily", args=(1,), name="second")',
        "broken": 'schedule("demo.tasks.add", "61 * * * *", args=(1,), name="wrong")',
    }.items():
        Project(tmp_path / "releases" / release).write(cron=cron)

    def switch(release: str) -> None:
        fresh = tmp_path / "fresh"
        fresh.symlink_to(f"releases/{release}")
        fresh.replace(link)

    switch("one")
    process = start(RQSTACK_TASKS_PATH="current")
    until(lambda: names(connection) == {"first"})
    switch("broken")
    until(lambda: process.said("nothing was removed"))
    assert process.said("demo.cron: cannot be imported: ValueError: cron='61 * * * *'")
    assert names(connection) == {"first"}
    switch("two")
    until(lambda: names(connection) == {"second"})
    assert process.stop() == 0


def test_wrong_lines_are_named_and_hide_no_other(
    redis_url: str, connection: Redis, project: Project, start: Start, tmp_path: Path
) -> None:
    project.write(
        cron='from demo.tasks import add\nschedule(add, "@daily", args=(1,), name="good")\n'
        'schedule(add, "@daily", args=({1},))\n'
        'schedule(add, "@daily", args=(1,), name="twice")\nschedule(add, "@hourly", args=(1,), name="twice")\n',
        tasks='\n@task(cron="@daily")\ndef needs(argument): ...\n',
    )
    Project(tmp_path / "tasks", "other").write(cron="import nowhere_to_be_found")
    process = start()
    until(lambda: process.said("nothing was removed"))
    assert names(connection) == {"good", "twice"}
    for problem in (
        "other.cron: cannot be imported: ModuleNotFoundError",
        "demo.tasks.needs: cron='@daily': demo.tasks.needs: missing a required argument",
        "JSON cannot represent its arguments",
        "two cron entries are named 'twice'",
    ):
        assert process.said(problem), problem
    assert not process.said("Traceback")


def test_a_table_that_was_flushed_comes_back(redis_url: str, connection: Redis, project: Project, start: Start) -> None:
    project.write(cron='from demo.tasks import add\nschedule(add, "* * * * * *", args=(1,), name="n")')
    process = start()
    until(lambda: connection.llen("rq:queue:default"))
    connection.flushall()
    until(lambda: connection.llen("rq:queue:default"))
    assert process.said("gone from Redis")
    until(lambda: read_heartbeats(connection))


def test_redis_may_come_later(own_redis: RedisServer, project: Project, start: Start, tmp_path: Path) -> None:
    own_redis.kill()
    project.write(cron='from demo.tasks import add\nschedule(add, "* * * * * *", args=(1,), name="n")')
    process = start(REDIS_URL=own_redis.url)
    until(lambda: process.said("Trying again until it is back"))
    own_redis.start()
    client = own_redis.client()
    until(lambda: client.llen("rq:queue:default"))
    own_redis.kill()
    until(lambda: process.log.read_text().count("Trying again") == 2)
    assert process.process.poll() is None
    assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()


def test_delayed_jobs_run_when_they_are_due(redis_url: str, connection: Redis, project: Project, start: Start) -> None:
    process = start()
    until(lambda: process.said("the cron table is loaded"))
    with Scheduler() as scheduler:
        later = scheduler.enqueue_in("new-queue", timedelta(hours=1), "demo.tasks.add", (1,))
        soon = scheduler.enqueue_in("new-queue", timedelta(seconds=2), "demo.tasks.add", (1,))
        until(lambda: scheduler.queued_count("new-queue"))
        assert scheduler.get_queue("new-queue").job_ids == [soon.id]
        assert [job.id for job in scheduler.scheduled_jobs()] == [later.id]


@pytest.mark.parametrize("damaged", ["rq:scheduled:broken", "rq:queue:broken", "rq:job:broken"])
def test_damaged_data_is_dropped_and_holds_up_nothing_else(
    damaged: str, redis_url: str, connection: Redis, project: Project, start: Start
) -> None:
    process = start()
    until(lambda: process.said("the cron table is loaded"))
    connection.sadd("rq:queues", "rq:queue:broken")
    with Scheduler() as scheduler:
        if damaged != "rq:scheduled:broken":
            scheduler.enqueue_in("broken", timedelta(0), "demo.tasks.add", (1,), job_id="broken")
        connection.delete(damaged)
        connection.set(damaged, "a string")
        good = [
            scheduler.enqueue_in(name, timedelta(seconds=1), "demo.tasks.add", (1,)).id
            for name in ("broken", "other")
            if f"rq:scheduled:{name}" != damaged
        ]
        wanted = {*good, "broken"} if damaged == "rq:queue:broken" else set(good)

        def found() -> set[str]:
            with contextlib.suppress(ResponseError):  # until the key is dropped
                return {job_id for name in ("broken", "other") for job_id in scheduler.get_queue(name).job_ids}
            return set()

        until(lambda: found() >= wanted)
        assert found() == wanted
    assert not process.said("Trying again until it is back")
    assert process.process.poll() is None


def test_an_idle_scheduler_asks_redis_about_once_a_second(
    redis_url: str, connection: Redis, start: Start, project: Project
) -> None:
    process = start()
    until(lambda: process.said("the cron table is loaded"))

    def calls() -> int:
        return int(connection.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

    time.sleep(1)
    before = calls()
    time.sleep(4)
    assert calls() - before <= 6


def test_it_enqueues_what_a_dead_rq_worker_left_ready_and_trims_idle_queues(
    start: Start, redis_url: str, connection: Redis
) -> None:
    queue = Queue("quiet", connection=connection)
    job = queue.enqueue("time.time")
    connection.delete(queue.key)
    job.set_status(JobStatus.READY_TO_ENQUEUE)
    connection.zadd("rq:ready:quiet", {job.id: time.time()})
    expired = {f"expired-{n}": time.time() - 10 for n in range(5000)}
    connection.zadd("rq:finished:quiet", expired | {"kept": time.time() + 1000})
    start()
    until(lambda: connection.lrange(queue.key, 0, -1) == [job.id.encode()])
    until(lambda: connection.zrange("rq:finished:quiet", 0, -1) == [b"kept"])
    assert job.get_status() == "queued"
