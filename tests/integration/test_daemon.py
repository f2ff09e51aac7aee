"""`rqstack worker start|stop|restart|status`, as a person types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from support.paths import MODULES
from support.processes import is_alive, rqstack_command
from support.redis_server import RedisServer
from support.waiting import until


class Machine:
    """A home, and the commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid_file = folder / "run" / "w.pid"
        self.log_file = folder / "log" / "w.log"
        self.environment = os.environ | {
            "RQSTACK_HOME": str(folder),
            "RQSTACK_GRACE": "2",
            "RQSTACK_MODULES": "speaking",
            "RQSTACK_SECRET_KEY": "a key of the tests",
            "PYTHONPATH": str(MODULES),
            "QUEUE_BACKEND": "rqstack.backends.DatabaseQueue",
        }

    def type(self, *arguments: str, paths: bool = True) -> subprocess.CompletedProcess[str]:
        command = rqstack_command("worker", *arguments)
        if paths:
            command += ["-p", str(self.pid_file), "-l", str(self.log_file)]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def good(self, *arguments: str, paths: bool = True) -> str:
        done = self.type(*arguments, paths=paths)
        assert done.returncode == 0, done.stdout + done.stderr + self.log()
        return done.stdout

    def bad(self, *arguments: str) -> str:
        """The one line that a person gets."""
        done = self.type(*arguments)
        assert done.returncode == 1, done.stdout
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.type("status", "--json").stdout)
        return found

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else "(no log)"

    def call(self, code: str) -> None:
        code = f"import speaking; speaking.{code}"
        subprocess.run([sys.executable, "-c", code], env=self.environment, check=True)

    def until(self, condition: Callable[[], object]) -> None:
        until(condition, 30, log=self.log)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine whose background worker consumes an SQLite file."""
    made = Machine(tmp_path)
    try:
        yield made
    finally:
        made.type("stop")
        made.type("stop", paths=False)


def test_a_life(machine: Machine) -> None:
    assert machine.type("status").returncode == 3
    assert "Started" in machine.good("start", "-n", "2", "default")
    pid = machine.pid()
    found = machine.status()
    assert found["pid"] == pid
    assert len(found["children"]) == 2
    assert f"process {pid} with 2 children" in machine.good("status")
    assert os.getsid(pid) not in (pid, os.getsid(0))  # no terminal can be its own
    machine.call("speak.delay('hello')")
    machine.until(lambda: "hello" in machine.log())
    assert f"Stopped: process {pid}" in machine.good("stop")
    assert not is_alive(pid)
    assert not any(is_alive(child) for child in found["children"])
    assert not machine.pid_file.exists()
    assert "Not running." in machine.good("stop")
    assert machine.type("status").returncode == 3


def test_the_default_paths(machine: Machine) -> None:
    machine.good("start", paths=False)
    assert is_alive(int((machine.folder / "var" / "run" / "worker.pid").read_text()))
    assert "Consuming short-running, default" in (machine.folder / "var" / "log" / "worker.log").read_text()
    machine.good("stop", paths=False)


def test_a_second_start_is_refused(machine: Machine) -> None:
    machine.good("start")
    pid = machine.pid()
    assert f"already runs, as process {pid}" in machine.bad("start")
    assert machine.pid() == pid
    assert is_alive(pid)


def test_starts_at_the_same_time_give_one_worker(machine: Machine) -> None:
    command = rqstack_command("worker", "start")
    command += ["-p", str(machine.pid_file), "-l", str(machine.log_file)]
    starts = [
        subprocess.Popen(command, env=machine.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ends = [(start.communicate(timeout=60), start.returncode) for start in starts]
    assert sorted(code for _, code in ends) == [0, 1, 1, 1], ends
    assert all("already runs" in err for (_, err), code in ends if code)
    assert machine.log().count("Consuming") == 1


def test_a_restart(machine: Machine) -> None:
    assert "Not running" in machine.good("restart")
    first = machine.pid()
    said = machine.good("restart")
    assert f"Stopped: process {first}" in said
    assert machine.pid() != first
    assert is_alive(machine.pid())
    assert not is_alive(first)


@pytest.mark.parametrize("text", ["", "no number", "1", "999999999"])
def test_a_stale_pid_file(machine: Machine, text: str) -> None:
    """Also one with the id of a process that is somebody else's, which must not be touched."""
    machine.pid_file.parent.mkdir()
    machine.pid_file.write_text(text)
    assert machine.type("status").returncode == 1
    assert "stale" in machine.good("stop")
    machine.pid_file.write_text(text)
    machine.good("start")
    assert is_alive(machine.pid())


def test_a_killed_one(machine: Machine) -> None:
    machine.good("start")
    pid, children = machine.pid(), machine.status()["children"]
    os.kill(pid, signal.SIGKILL)
    machine.until(lambda: not any(is_alive(each) for each in (pid, *children)))
    died = machine.type("status")
    assert died.returncode == 1
    assert "it died" in died.stdout
    machine.good("start")
    assert machine.pid() != pid


def test_a_stop_waits_for_the_job(machine: Machine) -> None:
    machine.good("start")
    machine.call("sleep.delay(1)")
    machine.until((machine.folder / "asleep").exists)
    assert "Stopped" in machine.good("stop")
    assert "speaking.sleep" in machine.log()
    assert " done in 1." in machine.log()


def test_one_that_does_not_end_is_killed(machine: Machine) -> None:
    machine.environment["RQSTACK_GRACE"] = "1"
    machine.good("start", "-n", "2")
    found = machine.status()
    for pid in (found["pid"], *found["children"]):
        os.kill(pid, signal.SIGSTOP)
    assert f"Killed: process {found['pid']} did not stop within 1 s" in machine.good("stop")
    machine.until(lambda: not any(is_alive(pid) for pid in (found["pid"], *found["children"])))
    assert not machine.pid_file.exists()


@pytest.mark.parametrize("hangup", [True, False])
def test_the_log_may_be_moved_away(machine: Machine, hangup: bool) -> None:
    """With SIGHUP, as logrotate sends it, and without: what children write then goes to the new file too."""
    machine.good("start")
    machine.call("speak.delay('before')")
    machine.until(lambda: "raw before" in machine.log())
    old = machine.log_file.rename(machine.log_file.with_suffix(".1"))
    if hangup:
        os.kill(machine.pid(), signal.SIGHUP)
        machine.until(machine.log_file.exists)
    machine.call("speak.delay('after')")
    machine.until(lambda: "raw after" in machine.log())
    assert "after" not in old.read_text()
    assert is_alive(machine.pid())


def test_a_pid_file_or_log_that_cannot_be_written(machine: Machine) -> None:
    (machine.folder / "file").touch()
    machine.pid_file = machine.folder / "file" / "w.pid"
    assert f"The pid file {machine.pid_file} cannot be used: Not a directory" in machine.bad("start")
    machine.pid_file = machine.folder / "w.pid"
    machine.log_file = machine.folder / "file" / "w.log"
    assert f"The log {machine.log_file} cannot be written: Not a directory" in machine.bad("start")
    assert "cannot be written" in machine.bad("restart")  # before it stops anything
    assert not machine.pid_file.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_users_worker_is_not_stopped(machine: Machine) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        machine.pid_file = Path(folder, "w.pid")
        try:
            machine.good("start")
            code = (
                "import os, sys, daemon, psutil\n"
                "from pathlib import Path\n"
                "from rqstack.errors import RqstackError\n"
                "from rqstack.settings import get_settings\n"
                "from rqstack.daemon.daemon import Daemon\n"
                "worker = Daemon(Path(sys.argv[1]), Path(sys.argv[2]), get_settings())\n"
                "os.setgid(65534); os.setuid(65534)\n"
                "try:\n    worker.stop()\nexcept RqstackError as error:\n    print(error)"
            )
            command = [sys.executable, "-c", code, str(machine.pid_file), str(machine.log_file)]
            done = subprocess.run(command, env=machine.environment, capture_output=True, text=True, check=False)
            pid = machine.pid()
            said = f"The pid file {machine.pid_file} cannot be used: Permission denied. Choose another with -p."
            assert done.stdout.splitlines() == [said], done.stderr
            assert is_alive(pid)
            machine.good("stop")
        finally:
            machine.type("stop")  # before its pid file is gone


def test_a_backend_that_does_not_import(machine: Machine) -> None:
    machine.environment["QUEUE_BACKEND"] = "no.such.Queue"
    assert "'no.such.Queue' cannot be imported" in machine.bad("start")
    assert not machine.pid_file.exists()


def test_a_start_that_fails_shows_the_end_of_its_log(machine: Machine) -> None:
    """A module that ends the process when it is loaded, after the start."""
    machine.environment |= {"RQSTACK_MODULES": "ending", "HERE": str(os.getsid(0))}
    done = machine.type("start")
    assert done.returncode == 1
    assert "The worker exited during its start" in done.stderr
    assert done.stderr.splitlines()[-1] == "out of paper"
    assert machine.type("status").returncode == 1


def test_a_framework_that_does_not_load_is_one_line(machine: Machine) -> None:
    machine.environment["RQSTACK_PRELOAD"] = "speaking,no_such_module:setup"
    assert "RQSTACK_PRELOAD: no_such_module:setup does not load" in machine.bad("start")


# -- a worker of RQ's queues


@pytest.fixture
def rq_machine(machine: Machine, redis_url: str) -> Machine:
    del machine.environment["QUEUE_BACKEND"]
    machine.environment["REDIS_URL"] = redis_url
    return machine


def test_a_started_worker_is_registered(rq_machine: Machine, connection: Redis) -> None:
    rq_machine.good("start", "default")
    pids = {int(connection.hget(key, "pid") or 0) for key in connection.smembers("rq:workers")}  # type: ignore[union-attr, arg-type]
    assert pids & {rq_machine.pid(), *rq_machine.status()["children"]}
    rq_machine.call("speak.delay('through Redis')")
    rq_machine.until(lambda: "raw through Redis" in rq_machine.log())
    assert "Stopped" in rq_machine.good("stop")
    assert not connection.smembers("rq:workers")


def test_without_redis_it_says_so_and_goes_on(rq_machine: Machine, own_redis: RedisServer) -> None:
    own_redis.kill()
    rq_machine.environment["REDIS_URL"] = own_redis.url
    said = rq_machine.bad("start", "default", "--wait", "2")
    assert "keeps trying" in said
    assert f"Redis at {own_redis.url} cannot be reached" in said
    own_redis.start()
    client = own_redis.client()
    rq_machine.until(lambda: client.smembers("rq:workers"))
    assert "Stopped" in rq_machine.good("stop")
