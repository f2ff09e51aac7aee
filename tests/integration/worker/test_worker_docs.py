"""The commands of docs/worker.md are run, and its options are those that there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rqstack.cli.worker import run
from rqstack.settings import Settings, StackSettings
from rqstack.settings.loader import declared_settings
from support.worker_site import Site

PAGE = Path(__file__).resolve().parents[3] / "docs" / "worker.md"
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)[0].splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_jobs(site: Site, command: str) -> None:
    site.add_project()
    site.queue().enqueue("shop.tasks.double", 4, job_id="eight")
    path = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # RQ's own command registers no project: that is for PYTHONPATH, and for whoever opens the allow-list.
        "PYTHONPATH": str(site.folder / "tasks" / "shop"),
    }
    done = subprocess.run(
        ["sh", "-c", command], env=site.environment | path, cwd=site.folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.status("eight") == "finished", done.stdout + done.stderr
    assert site.job("eight").return_value() == 8


def test_every_option_is_described() -> None:
    text = PAGE.read_text()
    options = {option for parameter in run.params for option in parameter.opts if option.startswith("--")}
    table = set(re.findall(r"`(--[a-z-]+)[ `]", text.partition("## Options")[2].partition("## Stopping")[0]))
    assert table == options - {"--backend"}


def test_every_setting_that_is_named_exists() -> None:
    known = {setting.name for cls in (Settings, StackSettings) for setting in declared_settings(cls).values()}
    assert set(re.findall(r"RQSTACK_[A-Z_]+", PAGE.read_text())) <= known
