"""The Makefile: every target is listed, and a Python that will not do is said in a sentence."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony is not None
    targets = phony[1].split()
    assert len(targets) == len(set(targets))
    shown = make(ROOT).stdout
    assert re.findall(r"^    ([a-z-]+) +\S", shown, re.MULTILINE) == sorted(
        targets, key=lambda name: text.index(f"\n{name}:")
    )


def test_make_finds_no_target_twice() -> None:
    assert "overriding recipe" not in make(ROOT, "help").stderr


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (None, "was not found. Install Python 3.11 or newer"),
        ("exit 1", "is older than Python 3.11. Name a newer one: make setup PYTHON="),
        ('[ "$1" = -c ]', "cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_said(script: str | None, sentence: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    python = tmp_path / "python-of-this-test"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    done = make(tmp_path, "setup", f"PYTHON={python}")
    assert done.returncode == 2
    assert f"{python} {sentence}" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_of_a_folder_that_was_moved_is_made_anew(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    (commands / "python").write_text("#!/bin/sh\n")
    (commands / "rqstack").write_text("#!/where/it/was/.venv/bin/python\n")
    for path in (commands / "python", commands / "rqstack"):
        path.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    python = tmp_path / "python-of-this-test"
    python.write_text('#!/bin/sh\n[ "$1" = -c ]\n')
    python.chmod(0o755)
    assert "moved" not in make(tmp_path, "help").stdout
    assert commands.is_dir()
    done = make(tmp_path, "status", f"PYTHON={python}")
    assert "This folder was moved, or .venv was copied: making .venv anew\n" in done.stdout
    assert "cannot make virtual environments" in done.stderr
    assert not (tmp_path / ".venv").exists()

    # One that is at its place stays.
    commands.mkdir(parents=True)
    (commands / "rqstack").write_text(f"#!{commands / 'python'}\n")
    assert "moved" not in make(tmp_path, "--dry-run", "status").stdout
