"""The stack without Docker, by the commands that `make` calls: started, broken in many ways, and stopped."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from support.ports import free_port
from support.processes import environment_without
from support.projects import copy_project
from support.waiting import until

pytestmark = pytest.mark.timeout(400)  # several starts and stops each, beside other tests

ROOT = Path(__file__).resolve().parents[2]


class Project:
    """A checkout in a folder of its own, with a task project and the commands of its environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("Procfile", "Procfile-monitor", "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        for name in ("requirements", "prometheus", "services"):
            shutil.copytree(ROOT / name, root / name)
        (root / ".venv").symlink_to(sys.prefix)
        copy_project("demo", root / "tasks")
        self.environment = environment_without("RQSTACK_", "REDIS_")
        self.environment |= {"RQSTACK_HOME": str(root), "REDIS_PORT": str(free_port()), "RQSTACK_GRACE": "2"}

    def rqstack(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.root / ".venv" / "bin" / "rqstack"), *arguments]
        given = self.environment | environment
        return subprocess.run(command, cwd=self.root, env=given, capture_output=True, text=True, timeout=240)

    def start(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.rqstack("stack", "start", "--mode", "local", *options, **environment)

    def stop(self) -> subprocess.CompletedProcess[str]:
        return self.rqstack("stack", "stop", "--mode", "local")

    def trigger(self, *arguments: str) -> str:
        done = self.rqstack("trigger", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def result(self, job: str, seconds: int = 40) -> str:
        assert self.rqstack("wait", job, "--timeout", str(seconds)).returncode == 0
        return self.rqstack("result", "--jobid", job).stdout.strip()

    def processes(self) -> list[psutil.Process]:
        """Whatever runs for this project: each has its folder in the command line or the environment."""
        found = []
        for process in psutil.process_iter():
            try:
                home = process.environ().get("RQSTACK_HOME")
                if process.pid != os.getpid() and (home == str(self.root) or str(self.root) in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def pid(self, name: str) -> int:
        """The process id of `rqstack stack run NAME`."""
        status = json.loads(self.rqstack("stack", "status", "--mode", "local", "--json").stdout)
        return int(next(row["pid"] for row in status["processes"] if row["process"] == name))

    def child(self, name: str) -> psutil.Process:
        """The process that it keeps running."""
        children: list[psutil.Process] = psutil.Process(self.pid(name)).children()
        assert len(children) == 1
        return children[0]

    def redis(self) -> Redis:
        values = dict(line.split("=", 1) for line in (self.root / "var" / "stack.env").read_text().splitlines()[1:])
        return Redis.from_url(values["REDIS_URL"], username="admin", password=values["REDIS_PASSWORD"])

    def close(self) -> None:
        self.stop()
        for process in self.processes():
            process.kill()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_start_runs_everything_and_stop_leaves_nothing(project: Project) -> None:
    done = project.start()
    assert done.returncode == 0, done.stderr
    assert f"redis://127.0.0.1:{project.environment['REDIS_PORT']}" in done.stdout
    assert "rqstack trigger" in done.stdout.splitlines()[-1]
    status = project.rqstack("stack", "status", "--json")
    assert status.returncode == 0, status.stdout
    rows = {row["process"]: row["healthy"] for row in json.loads(status.stdout)["processes"]}
    assert rows == {"redis.1": True, "worker.1": True, "long-worker.1": True, "scheduler.1": True}

    again = project.start()
    assert again.returncode == 0
    assert "already runs" in again.stdout
    assert project.result(project.trigger("demo.tasks.add", "2", "3")) == "5"
    logs = project.rqstack("stack", "logs", "worker").stdout
    assert "on short-running, default" in logs
    assert {line.split("|")[0].strip() for line in logs.splitlines()} == {"worker.1"}
    assert_refusals_are_said(project)

    # A queue that nobody serves keeps its jobs over a stop.
    project.redis().rpush("rq:queue:kept", "one", "two")
    stopped = project.stop()
    assert stopped.returncode == 0, stopped.stderr
    assert project.processes() == []
    assert not (project.root / "var" / "stack.env").exists()
    assert project.rqstack("stack", "status", "--mode", "local").returncode == 3
    assert project.stop().stdout == "Nothing runs.\n"
    assert project.start().returncode == 0
    assert project.redis().lrange("rq:queue:kept", 0, -1) == [b"one", b"two"]


def assert_refusals_are_said(project: Project) -> None:
    """A wrong password, and a Redis that is not there: one sentence each."""
    refused = project.rqstack("info", REDIS_PASSWORD="wrong")
    assert refused.returncode == 1
    assert "refused the user name or password" in refused.stderr
    assert refused.stderr.count("\n") == 1
    absent = project.rqstack("info", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert absent.returncode == 1
    assert "cannot be reached" in absent.stderr
    assert absent.stderr.count("\n") == 1


def test_what_is_killed_comes_back_and_no_job_is_lost(project: Project) -> None:
    unknown = project.start("--scale", "workers=3")
    assert unknown.returncode == 1
    assert "--scale workers: no such process" in unknown.stderr
    assert project.start("--scale", "worker=2").returncode == 0
    rows = json.loads(project.rqstack("stack", "status", "--json").stdout)["processes"]
    assert {"worker.1", "worker.2"} < {row["process"] for row in rows if row["healthy"]}
    jobs = [project.trigger("demo.tasks.add", "1", "1")]
    time.sleep(1.2)  # the append-only file is synced once a second
    port = project.redis().connection_pool.connection_kwargs["port"]
    project.child("redis.1").kill()
    until(lambda: ping(project), 30, "Redis is back on its port")
    assert project.redis().connection_pool.connection_kwargs["port"] == port
    jobs.append(project.trigger("demo.tasks.add", "1", "2"))
    worker = project.child("worker.1")
    worker.kill()
    jobs.append(project.trigger("demo.tasks.add", "1", "3"))
    assert [project.result(job) for job in jobs] == ["2", "3", "4"]
    assert project.child("worker.1").pid != worker.pid


def ping(project: Project) -> bool:
    try:
        return bool(project.redis().ping())
    except Exception:
        return False


def test_a_stop_puts_back_the_job_that_does_not_end_in_time(project: Project, tmp_path: Path) -> None:
    mark = tmp_path / "runs"
    assert project.start().returncode == 0
    job = project.trigger("demo.tasks.sleep", "8", json.dumps(str(mark)))
    until(mark.exists, 30, "the job runs")
    assert project.stop().returncode == 0
    assert project.processes() == []
    assert project.start().returncode == 0
    assert project.result(job) == "slept"
    assert len(mark.read_text().splitlines()) == 2


def test_honcho_by_hand_does_the_same_in_colour_and_ends_on_ctrl_c(project: Project) -> None:
    ours, theirs = pty.openpty()
    command = [str(project.root / ".venv" / "bin" / "honcho"), "start"]
    honcho = subprocess.Popen(
        command, cwd=project.root, env=project.environment, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        until(lambda: (project.root / "var" / "stack.env").exists() and ping(project), 30, "Redis runs")
        until(lambda: project.rqstack("stack", "status").returncode == 0, 30, "all are healthy")
        assert project.result(project.trigger("demo.tasks.add", "20", "3")) == "23"
        assert "already runs" in project.start().stdout
        honcho.send_signal(signal.SIGINT)
        text = ""
        try:
            while part := os.read(ours, 65536):
                text += part.decode(errors="replace")
        except OSError:
            pass  # Linux ends a terminal that nobody writes to any more with an error
        assert honcho.wait(15) == 130
    finally:
        honcho.kill()
        os.close(ours)
    assert re.search(r"\x1b\[\d+m\d\d:\d\d:\d\d worker\.1", text), "its name is coloured"
    assert "SIGKILL" not in text
    until(lambda: not project.processes(), 30, "all have ended")


def test_a_given_port_in_use_is_said_and_nothing_is_left(project: Project) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = project.start(REDIS_PORT=port)
    assert done.returncode == 1
    assert f"REDIS_PORT={port}: another program listens on port {port}" in done.stderr
    assert "Traceback" not in done.stderr
    assert project.processes() == []


def test_the_default_port_gives_way_to_a_free_one(project: Project) -> None:
    del project.environment["REDIS_PORT"]
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 6379))
            other.listen()
        except OSError:
            pass  # somebody else has it, which does as well
        assert project.start().returncode == 0
        found = re.search(r"REDIS_URL=redis://127.0.0.1:(\d+)/0", (project.root / "var" / "stack.env").read_text())
        assert found is not None
        assert found[1] != "6379"
        assert project.result(project.trigger("demo.tasks.add", "4", "4")) == "8"


def test_a_process_that_cannot_start_is_named_with_the_end_of_its_log(project: Project) -> None:
    procfile = project.root / "Procfile"
    procfile.write_text(procfile.read_text().replace("run scheduler", "run sheduler"))
    done = project.start()
    assert done.returncode == 1
    assert "scheduler.1 did not start" in done.stderr
    assert "sheduler: no such process" in done.stderr
    assert project.processes() == []


def test_a_wrong_setting_is_said_before_anything_starts(project: Project) -> None:
    done = project.start(RQSTACK_PROCESSES="none")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "RQSTACK_PROCESSES: 'none' is not allowed" in done.stderr
    assert project.processes() == []


def test_a_missing_secret_is_said_before_anything_starts(project: Project) -> None:
    assert project.rqstack("stack", "setup").returncode == 0
    path = project.root / ".env"
    path.write_text(re.sub(r"^RQSTACK_SECRET_KEY=.*$", "", path.read_text(), flags=re.MULTILINE))
    done = project.start()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has no value for RQSTACK_SECRET_KEY" in done.stderr


@pytest.fixture
def small_disk(project: Project) -> Iterator[Path]:
    """Redis's folder on a disk of its own, too small for anything."""
    folder = project.root / "var" / "redis"
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        project.close()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_said_at_the_start_and_later(project: Project, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(40 * 2**20))
    done = project.start()
    assert done.returncode == 1
    assert "Redis's append-only file needs 64" in done.stderr
    ballast.unlink()

    assert project.start().returncode == 0
    job = project.trigger("demo.tasks.add", "1", "1")
    assert project.result(job) == "2"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(2**16))
                file.flush()
        except OSError:
            pass
    refused = until(
        lambda: (
            (done := project.rqstack("trigger", "demo.tasks.add", "[" + "1," * 9000 + "1]", "[1]")).returncode and done
        ),
        30,
        "a full disk",
    )
    assert "cannot write to its disk" in refused.stderr
    assert refused.stderr.count("\n") == 1
    ballast.unlink()
    until(lambda: project.rqstack("trigger", "demo.tasks.add", "1", "1").returncode == 0, 30, "Redis goes on by itself")
    assert project.result(job) == "2"
