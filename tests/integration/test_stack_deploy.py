"""Without Docker: new task code by `make deploy-tasks`, code that is broken, and monitoring that is stopped alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.local_stack import LocalStack
from support.processes import end
from support.projects import copy_project
from support.waiting import until

pytestmark = pytest.mark.timeout(400)  # starts and stops, beside other tests


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LocalStack]:
    made = LocalStack(tmp_path)
    try:
        yield made
    finally:
        made.close()


def deploy(project: LocalStack) -> subprocess.CompletedProcess[str]:
    return project.rqstack("stack", "deploy-tasks")


def test_new_code_is_loaded_and_broken_code_is_not(project: LocalStack) -> None:
    module = project.root / "tasks" / "demo" / "demo" / "tasks.py"
    good = module.read_text()
    module.write_text(good + "\nimport nothing_of_that_name\n")
    broken = project.start()
    assert broken.returncode == 1
    assert f"Error: demo.tasks: cannot be imported: ModuleNotFoundError: {MISSING} ({module}:" in broken.stderr
    assert project.processes() == []
    module.write_text(good)

    assert project.start().returncode == 0
    workers = [project.child(name).pid for name in ("worker.1", "long-worker.1")]
    assert project.result(project.trigger("demo.tasks.add", "2", "3")) == "5"

    module.write_text(good.replace("return a + b", "return a * b"))
    shipped = deploy(project)
    assert shipped.returncode == 0, shipped.stderr
    assert "The workers have loaded the new code." in shipped.stdout
    assert project.result(project.trigger("demo.tasks.add", "2", "3")) == "6"

    module.write_text(good + "\nimport nothing_of_that_name\n")
    refused = deploy(project)
    assert refused.returncode == 1
    assert f"Error: demo.tasks: cannot be imported: ModuleNotFoundError: {MISSING} ({module}:" in refused.stderr
    assert "The workers keep the code that they have." in refused.stderr
    module.write_text(good)  # what enqueues imports it too
    assert project.result(project.trigger("demo.tasks.add", "2", "3")) == "6"

    # A new project, and its cron table, without a restart.
    copy_project("demo", project.root / "tasks", name="second")
    (project.root / "tasks" / "second" / "pyproject.toml").write_text('[project]\nname = "second"\nversion = "1"\n')
    cron = (
        "from rqstack.scheduling import schedule\nfrom second.tasks import add\n\nschedule(add, '@yearly', args=(1, 2))"
    )
    (project.root / "tasks" / "second" / "second" / "cron.py").write_text(f"{cron}\n")
    assert deploy(project).returncode == 0
    assert project.result(project.trigger("second.tasks.add", "2", "3")) == "5"
    until(lambda: project.redis().keys("rqstack:cron:entry:*"), 30)
    assert [project.child(name).pid for name in ("worker.1", "long-worker.1")] == workers


MISSING = "No module named 'nothing_of_that_name'"


def test_a_deploy_before_the_start_says_so(project: LocalStack) -> None:
    assert project.rqstack("stack", "setup").returncode == 0
    done = project.rqstack("stack", "deploy-tasks", "--mode", "local")
    assert (done.returncode, done.stdout) == (0, "No worker runs. The next start loads this code.\n")


def test_monitoring_is_stopped_alone_and_a_follower_of_logs_is_told_what_runs(project: LocalStack) -> None:
    assert project.start().returncode == 0
    (project.root / "Procfile-monitor").write_text("rq-exporter: exec sleep 600\n")
    command = [sys.executable, "-m", "rqstack.stack.runner", str(project.root), "Procfile-monitor"]
    runner = subprocess.Popen(command, cwd=project.root, env=project.environment, start_new_session=True)
    logs = subprocess.Popen(
        [str(project.root / ".venv" / "bin" / "rqstack"), "stack", "logs", "--follow"],
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until((project.root / "var" / "run" / "Procfile-monitor").exists, 30)
        with (project.root / "var" / "stack.env").open("a") as file:
            file.write("RQ_EXPORTER_PORT=1\n")
        done = project.rqstack("stack", "stop", "--only-monitoring")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("The stack still runs.\n")
        runner.wait(30)
        assert project.rqstack("stack", "stop", "--only-monitoring").stdout == "No monitoring runs.\n"
        status = json.loads(project.rqstack("stack", "status", "--json").stdout)
        assert len(status["processes"]) == 4
        assert list(status["listening"]) == ["Redis"]

        assert logs.stdout is not None
        assert logs.stdout.readline()
        os.kill(logs.pid, signal.SIGINT)
        assert logs.communicate(timeout=30)[1] == "The stack still runs. To stop it: make stop\n"
        assert logs.returncode == 130
    finally:
        end(runner, logs)


def test_the_login_of_the_jobs_page_is_printed(project: LocalStack) -> None:
    from rqstack.stack import local

    assert local.login() == "  user admin, password: DASHBOARD_PASSWORD in .env"
