"""The blocks of docs/from-rq.md, run as they stand in a project that was written for RQ alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from support.paths import ROOT
from support.processes import end, environment_without, start
from support.waiting import until

PAGE = ROOT / "docs" / "from-rq.md"
SAMPLE = ROOT / "tests" / "data" / "rq_project"

PLAIN = (
    "import os; from redis import Redis; from rq import Queue; from mailroom.jobs import send; "
    'r = Redis.from_url(os.environ["REDIS_URL"]); Queue("mail", connection=r).enqueue(send, "ann"); r.close()'
)
"""Enqueues as a program of RQ does."""


@pytest.fixture
def project(tmp_path: Path, redis_url: str) -> Path:
    folder = tmp_path / "project"
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {
        **environment_without("PYTHONPATH"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RQSTACK_HOME": str(folder),
        **more,
    }


def run(folder: Path, script: str, **more: str) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script]
    given = environment(folder, **more)
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def outbox(folder: Path) -> list[str]:
    lines = (folder / "outbox.txt").read_text().splitlines()
    (folder / "outbox.txt").unlink()
    return lines


@pytest.mark.timeout(240)
def test_the_steps_of_the_page(project: Path, connection: Redis) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    worker, job_class, tasks, signed, scheduler = blocks
    said = run(project, worker)
    assert outbox(project) == ["sent to ann", "success: ANN", "failure: no mailbox bob"]
    assert re.search(r"^mail +\|", said, re.MULTILINE), "RQ's own command shows the queue"

    run(project, job_class)
    found = outbox(project)
    assert found[:3] == ["traced: mailroom.jobs.send", "sent to ann", "success: ANN"]
    assert "failure: no mailbox bob" in found

    run(project, tasks)
    assert outbox(project) == ["sent to dora"]
    run(project, "export RQSTACK_MODULES=mailroom.tasks\n" + signed)
    assert outbox(project) == ["sent to emil"]

    log = project / "log"
    process = start(["bash", "-c", f"exec env {scheduler}"], log, env=environment(project), cwd=project)
    try:
        until(lambda: "the cron table is loaded: 1 added" in log.read_text(), 60, log=log.read_text)
        # It also moves the jobs that RQ's enqueue_in stored, which a worker then runs.
        until(lambda: connection.zcard("rq:scheduled:mail") == 0, 60, log=log.read_text)
    finally:
        end(process)
    run(project, "rqstack worker run mail --burst", RQSTACK_ALLOW_UNREGISTERED="1")
    assert "sent to carl" in outbox(project)


def test_the_code_of_the_page_is_that_of_the_sample() -> None:
    page = PAGE.read_text()
    cron = (SAMPLE / "mailroom" / "cron.py").read_text()
    assert cron.partition("\n\n")[2].strip() in page


def test_a_function_that_is_no_task_is_named(project: Path, connection: Redis) -> None:
    run(project, f"python -c '{PLAIN}' && rqstack worker run mail --burst")
    assert "no task named 'mailroom.jobs.send' is registered" in error_of_only_job(project, connection)


def test_a_job_that_is_not_signed_says_how_to_sign(project: Path, connection: Redis) -> None:
    key = {"RQSTACK_SECRET_KEY": "at-least-thirty-two-random-characters", "RQSTACK_MODULES": "mailroom.tasks"}
    run(project, f"python -c '{PLAIN}' && rqstack worker run mail --burst", **key)
    error = error_of_only_job(project, connection)
    assert "Enqueue it by `.delay()` of its task" in error
    assert "serializer=rqstack.security.Default" in error
    signed = PLAIN.replace("connection=r", "connection=r, serializer=Default").replace("jobs", "tasks")
    signed = f"from rqstack.security import Default; {signed}"
    key["RQSTACK_ACCEPT_RQ_SIGNATURES"] = "1"
    run(project, f"python -c '{signed}' && rqstack worker run mail --burst", **key)
    assert outbox(project) == ["sent to ann"]


def error_of_only_job(project: Path, connection: Redis) -> str:
    (failed,) = connection.zrange("rq:failed:mail", 0, -1)
    return run(project, f"rqstack result {failed.decode()} || true")
