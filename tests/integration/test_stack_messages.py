"""What the command line says to a newcomer's mistakes: what is wrong, where, and what to do. No traceback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rqstack.stack import generated
from support.paths import ROOT
from support.processes import environment_without, rqstack_command
from support.waiting import until


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = environment_without("RQSTACK_", "REDIS_") | {"RQSTACK_HOME": str(folder)} | more
    command = rqstack_command(*arguments)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    shutil.copy(ROOT / "Procfile", folder)
    (folder / "services").mkdir()
    return folder


@pytest.mark.parametrize("word", ["retry", "emty", "purg", "requeu", "enqueue"])
def test_no_command_that_deletes_jobs_is_suggested(word: str, tmp_path: Path) -> None:
    done = run(tmp_path, word, "some-id")
    assert done.returncode == 2
    assert f"No such command '{word}'" in done.stderr
    assert not re.search(r"Did you mean.*\b(empty|purge)\b", done.stderr)


@pytest.mark.parametrize(("word", "command"), [("retry", "requeue"), ("enqueue", "trigger"), ("triger", "trigger")])
def test_a_near_command_is_suggested(word: str, command: str, tmp_path: Path) -> None:
    assert f"Did you mean {command}?" in run(tmp_path, word).stderr


def test_a_misspelt_setting_is_named_with_the_right_one(checkout: Path) -> None:
    assert run(checkout, "stack", "setup").stderr == ""
    with (checkout / ".env").open("a") as file:
        file.write("RQSTACK_PROCESES=4\n")
    done = run(checkout, "stack", "setup", RQSTACK_NONSENSE="1")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "Warning: RQSTACK_NONSENSE in the environment is not a setting of rqstack, so it has no effect.",
        f"Warning: RQSTACK_PROCESES in {checkout / '.env'} is not a setting of rqstack, so it has no effect. "
        "Did you mean RQSTACK_PROCESSES?",
    ]


@pytest.mark.parametrize("command", [("start",), ("setup",), ("deploy-tasks",), ("systemd", "units")])
def test_outside_of_a_clone_nothing_is_written(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run(tmp_path, "stack", *command)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {tmp_path} is not a checkout of rqstack: it has no Procfile. Go to the folder of your clone, or name "
        "it in RQSTACK_HOME.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(checkout: Path) -> None:
    (checkout / "var").write_text("a file in place of the folder")
    done = run(checkout, "stack", "setup")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"Error: {checkout}/var\S*: (File exists|Not a directory)\. Check its owner and permissions\.\n", done.stderr
    )


def test_a_block_of_env_without_an_end_is_refused_with_its_line(checkout: Path) -> None:
    run(checkout, "stack", "setup")
    path = checkout / ".env"
    path.write_text(path.read_text().replace(generated.END, "# a line of mine"))
    before = path.read_text()
    done = run(checkout, "stack", "setup")
    assert done.returncode == 1
    assert f"{path}, line 1: the block that `make start` writes has no end. Remove its lines" in done.stderr
    assert path.read_text() == before


def test_an_unknown_option_of_a_task_is_named_with_task_and_file(checkout: Path) -> None:
    module = checkout / "tasks" / "shop" / "shop" / "tasks.py"
    module.parent.mkdir(parents=True)
    (checkout / "tasks" / "shop" / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n')
    module.write_text("from rqstack import task\n\n\n@task(retrys=3)\ndef total():\n    return 1\n")
    done = run(checkout, "tasks", "check")
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"shop.tasks.total ({module}:4): there is no option 'retrys'. Did you mean retries?" in said
    assert "options.py" not in said


def test_an_unknown_setting_of_a_django_site_is_one_line(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "django_site", tmp_path / "site")
    settings = tmp_path / "site" / "mysite" / "settings.py"
    settings.write_text(settings.read_text() + "\nRQSTACK = {'QUEUS': ['default']}\n")
    environment = environment_without("RQSTACK_", "REDIS_", "DJANGO_")
    environment |= {"RQSTACK_HOME": str(tmp_path), "SITE_DATA": str(tmp_path)}
    command = [sys.executable, "manage.py", "check"]
    done = subprocess.run(command, cwd=tmp_path / "site", env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: RQSTACK_QUEUS is not a setting of rqstack. The settings are: ")
    assert len(done.stderr.splitlines()) == 1


def test_what_is_killed_without_a_word_is_said_to_lack_memory() -> None:
    from rqstack.processes.exit_status import describe, likely_cause

    killed, ended = signal.SIGKILL, 3 << 8  # wait statuses, as Linux packs them
    assert describe(killed) == "waitpid returned 9 (signal 9)"
    assert "the likely cause is that memory ran out: raise WORKER_MEMORY" in likely_cause(killed)
    assert likely_cause(ended) == ""


def test_a_project_from_outside_comes_without_its_environment_and_is_known_here(checkout: Path, tmp_path: Path) -> None:
    from rqstack.stack.build_projects import copy_outside_projects

    project = tmp_path / "billing"
    (project / "billing").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[project]\nname = "billing"\nversion = "1"\n')
    (project / "billing" / "tasks.py").write_text("from rqstack import task\n\n\n@task\ndef bill(): ...\n")
    for name in ("venv", "my-environment"):
        (project / name).mkdir()
        (project / name / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (checkout / "tasks").mkdir()
    copy_outside_projects([project], checkout / "tasks")
    copy = checkout / "tasks" / ".outside" / "billing"
    assert sorted(path.name for path in copy.iterdir()) == ["billing", "pyproject.toml"]
    assert "billing.tasks.bill" in run(checkout, "tasks", "list").stdout
    assert "billing.tasks.bill" in run(checkout, "tasks", "list", RQSTACK_PROJECTS="billing").stdout
    assert "there is no such project" in run(checkout, "tasks", "check", RQSTACK_PROJECTS="biling").stderr


def test_an_interrupted_start_says_what_still_runs(checkout: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", checkout)
    (checkout / "tasks").mkdir()
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    config = '{"name": "a", "services": {}}'
    docker.write_text(
        f"#!/bin/sh\ncase $* in\ninfo*|*version*) echo 26;;\n*' config '*) echo '{config}';;\n"
        f"*' up '*) touch {tmp_path}/begun; sleep 60;;\nesac\n"
    )
    docker.chmod(0o755)
    environment = environment_without("RQSTACK_", "REDIS_")
    environment |= {"RQSTACK_HOME": str(checkout), "PATH": f"{docker.parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        rqstack_command("stack", "start", "--mode", "compose"),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until((tmp_path / "begun").exists, 60)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1] == (
        "Interrupted. Containers that have started still run. To stop them: make stop\n"
    )
    assert process.returncode == 130
