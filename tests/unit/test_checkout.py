"""What a checkout is at, against Git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rqstack.checkout import head
from rqstack.scheduling.release import release
from rqstack.settings import Settings, load
from rqstack.worker import reload

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    named = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-c", "protocol.file.allow=always", "-C", str(folder), *arguments]
    return subprocess.run(command, env=os.environ | named, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path, text: str) -> str:
    git(folder, "commit", "-q", "--allow-empty", "-m", text)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "tasks").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    return folder


def test_it_is_what_git_says(repository: Path) -> None:
    assert head(repository) == ""
    first = commit(repository, "1")
    assert head(repository) == head(repository / "tasks") == first
    git(repository, "pack-refs", "--all")
    assert head(repository) == first
    second = commit(repository, "2")
    assert head(repository) == second
    git(repository, "checkout", "-q", first)
    assert head(repository) == first


def test_no_checkout(tmp_path: Path) -> None:
    assert head(tmp_path) == ""


@pytest.mark.parametrize("kind", ["worktree", "submodule"])
def test_scheduler_and_workers_notice_a_commit_in_another_kind_of_checkout(
    repository: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(repository, "1")
    if kind == "worktree":
        home = tmp_path / "home"
        git(repository, "worktree", "add", "-q", "-b", "other", str(home))
        tasks = home / "tasks"
        tasks.mkdir()
    else:
        home = tmp_path / "outer"
        home.mkdir()
        git(home, "init", "-q", "-b", "main")
        git(home, "submodule", "add", "-q", str(repository), "tasks")
        commit(home, "with the submodule")
        tasks = home / "tasks"
    monkeypatch.setenv("RQSTACK_HOME", str(home))
    settings = load(Settings)
    before, watch = release(settings), reload.CodeWatch(settings)
    assert head(tasks) == git(tasks, "rev-parse", "HEAD")
    new = commit(tasks, "2")
    assert head(tasks) == new
    assert release(settings) != before
    assert watch.has_changed()
    assert reload.release(settings) == new[:12]
