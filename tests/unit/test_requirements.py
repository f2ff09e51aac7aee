"""requirements/*.txt: locked, without addresses, and what pyproject.toml asks for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("requirements/*.txt"), *ROOT.glob("tasks/*/requirements.txt")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_requirement_has_a_version_and_hashes_and_no_address(path: Path) -> None:
    text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.MULTILINE)
    entries = [entry for entry in re.split(r"\n(?=\S)", text.strip()) if entry.strip()]
    assert entries
    for entry in entries:
        assert re.match(r"[a-zA-Z0-9_.-]+(\[[a-z,-]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry
    for word in ("://", "--index", "--extra-index", "--find-links", "--trusted", "file:"):
        assert word not in path.read_text(), f"{path} names where packages come from"


def test_the_same_package_has_the_same_version_in_every_environment_that_is_shared() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))

    runtime = versions("runtime.txt")
    for name in ("local.txt", "dev.txt"):
        assert runtime.items() <= versions(name).items(), name


def test_they_are_what_pyproject_asks_for(tmp_path: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed: `make test` installs it")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for about in ROOT.glob("tasks/*/pyproject.toml"):
        target = tmp_path / about.parent.relative_to(ROOT)
        target.mkdir(parents=True)
        shutil.copy(about, target)
        shutil.copy(about.parent / "requirements.txt", target)
    command = [str(tmp_path / "requirements" / "lock")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"UV": uv}, timeout=110)
    if done.returncode and re.search(r"[Ff]ailed to fetch|error sending request|dns error|timed out", done.stderr):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    for path in FILES:
        assert (tmp_path / path.relative_to(ROOT)).read_text() == path.read_text(), f"{path}: run `make lock`"


def test_the_package_declares_what_it_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    for version in ("3.11", "3.12", "3.13", "3.14"):
        assert f"Programming Language :: Python :: {version}" in project["classifiers"]
