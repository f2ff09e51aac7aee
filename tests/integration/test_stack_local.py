"""The stack without Docker, by the commands that `make` calls: started, broken in many ways, and stopped."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.local_stack import LocalStack
from support.ports import free_port
from support.waiting import until

pytestmark = pytest.mark.timeout(400)  # several starts and stops each, beside other tests

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LocalStack]:
    made = LocalStack(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_start_runs_everything_and_stop_leaves_nothing(project: LocalStack) -> None:
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
    # A setting that is wrong by now keeps nobody from stopping.
    settings = project.root / ".env"
    right = settings.read_text()
    settings.write_text(f"{right}RQSTACK_BATCH=many\n")
    stopped = project.rqstack("stack", "stop")
    settings.write_text(right)
    assert stopped.returncode == 0, stopped.stderr
    assert "Traceback" not in (project.root / "var" / "log" / "redis.1.log").read_text()
    assert "Warning: RQSTACK_BATCH: 'many' is not allowed" in stopped.stdout
    assert stopped.stdout.endswith("Stopped.\n")
    assert project.processes() == []
    assert not (project.root / "var" / "stack.env").exists()
    assert project.rqstack("stack", "status", "--mode", "local").returncode == 3
    # The mode is remembered: the jobs are here.
    assert project.rqstack("stack", "status", "--json").returncode == 3
    assert "\nRQSTACK_MODE=local\n" in (project.root / ".env").read_text()
    assert json.loads(project.rqstack("stack", "status", "--json").stdout)["mode"] == "local"
    assert project.stop().stdout == "Nothing runs.\n"
    assert project.start().returncode == 0
    assert project.redis().lrange("rq:queue:kept", 0, -1) == [b"one", b"two"]


def assert_refusals_are_said(project: LocalStack) -> None:
    """A wrong password, and a Redis that is not there: one sentence each."""
    refused = project.rqstack("info", REDIS_PASSWORD="wrong")
    assert refused.returncode == 1
    assert "refused the user name or password" in refused.stderr
    assert refused.stderr.count("\n") == 1
    absent = project.rqstack("info", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert absent.returncode == 1
    assert "cannot be reached" in absent.stderr
    assert absent.stderr.count("\n") == 1


def test_what_is_killed_comes_back_and_no_job_is_lost(project: LocalStack) -> None:
    once = project.start("--scale", "redis=2")
    assert once.returncode == 1
    assert once.stderr == (
        "Error: --scale redis: it can run once only. These can run several times: worker, long-worker, scheduler.\n"
    )
    unknown = project.start("--scale", "workers=3")
    assert unknown.returncode == 1
    assert "--scale workers: no such process" in unknown.stderr
    assert project.start(WORKERS="2").returncode == 0
    assert project.start("--scale", "worker=2").returncode == 0
    refused = project.start("--scale", "worker=3")
    assert refused.returncode == 1
    assert refused.stderr == "Error: worker runs 2 times. To run it 3 times: make stop, then this again.\n"
    misspelt = project.rqstack("stack", "logs", "wrker")
    assert misspelt.returncode == 1
    assert "wrker: no such process. Known are redis, worker" in misspelt.stderr
    rows = json.loads(project.rqstack("stack", "status", "--json").stdout)["processes"]
    assert {"worker.1", "worker.2"} < {row["process"] for row in rows if row["healthy"]}
    jobs = [project.trigger("demo.tasks.add", "1", "1")]
    until(lambda: project.redis().info("persistence")["aof_buffer_length"] == 0, 10, "the append-only file is written")
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


def ping(project: LocalStack) -> bool:
    try:
        return bool(project.redis().ping())
    except Exception:
        return False


def test_a_stop_puts_back_the_job_that_does_not_end_in_time(project: LocalStack, tmp_path: Path) -> None:
    mark = tmp_path / "runs"
    assert project.start().returncode == 0
    job = project.trigger("demo.tasks.sleep", "8", json.dumps(str(mark)))
    until(mark.exists, 30, "the job runs")
    assert project.stop().returncode == 0
    assert project.processes() == []
    assert project.start().returncode == 0
    assert project.result(job) == "slept"
    assert len(mark.read_text().splitlines()) == 2


def healthy(project: LocalStack) -> set[str]:
    rows = json.loads(project.rqstack("stack", "status", "--json").stdout)["processes"]
    return {row["process"] for row in rows if row["healthy"]}


def test_honcho_by_hand_does_the_same_in_colour_and_ends_on_ctrl_c(project: LocalStack) -> None:
    ours, theirs = pty.openpty()
    command = [str(project.root / ".venv" / "bin" / "honcho"), "start"]
    given = project.environment | {"WORKERS": "2"}
    honcho = subprocess.Popen(
        command, cwd=project.root, env=given, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    try:
        until(lambda: (project.root / "var" / "stack.env").exists() and ping(project), 30, "Redis runs")
        until(lambda: {"worker.1", "worker.2"} <= healthy(project), 30, "two workers, as WORKERS says")
        assert project.rqstack("stack", "status").returncode == 0
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


def test_a_given_port_in_use_is_said_and_nothing_is_left(project: LocalStack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = project.start(REDIS_PORT=port)
    assert done.returncode == 1
    assert f"redis.1 did not start: REDIS_PORT={port}: another program listens on port {port}" in done.stderr
    assert done.stderr.count("\n") == 1, "the reason alone"
    assert project.processes() == []


def test_the_default_port_gives_way_to_a_free_one(project: LocalStack) -> None:
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
        assert f"\nREDIS_PORT={found[1]}\n" in (project.root / ".env").read_text(), "it is remembered"
        assert project.result(project.trigger("demo.tasks.add", "4", "4")) == "8"


def test_a_process_that_cannot_start_is_named_with_the_end_of_its_log(project: LocalStack) -> None:
    procfile = project.root / "Procfile"
    procfile.write_text(procfile.read_text().replace("run scheduler", "run sheduler"))
    done = project.start()
    assert done.returncode == 1
    assert "scheduler.1 did not start" in done.stderr
    assert "sheduler: no such process" in done.stderr
    assert project.processes() == []


def test_a_wrong_setting_is_said_before_anything_starts(project: LocalStack) -> None:
    done = project.start(RQSTACK_PROCESSES="none")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "RQSTACK_PROCESSES: 'none' is not allowed" in done.stderr
    assert project.processes() == []


def test_a_missing_secret_is_said_before_anything_starts(project: LocalStack) -> None:
    assert project.rqstack("stack", "setup").returncode == 0
    path = project.root / ".env"
    path.write_text(re.sub(r"^RQSTACK_SECRET_KEY=.*$", "", path.read_text(), flags=re.MULTILINE))
    done = project.start()
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "has no value for RQSTACK_SECRET_KEY" in done.stderr


@pytest.fixture
def small_disk(project: LocalStack) -> Iterator[Path]:
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


def test_a_full_disk_is_said_at_the_start_and_later(project: LocalStack, small_disk: Path) -> None:
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
