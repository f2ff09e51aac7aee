"""What a checkout is at, against Git itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rqstack.registry.code_version import code_version, release_name
from rqstack.settings import Settings, load
from rqstack.settings.git import head_commit
from rqstack.worker.supervisor.reload import CodeWatch
from support.git import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


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
    assert head_commit(repository) == ""
    first = commit(repository, "1")
    assert head_commit(repository) == head_commit(repository / "tasks") == first
    git(repository, "pack-refs", "--all")
    assert head_commit(repository) == first
    second = commit(repository, "2")
    assert head_commit(repository) == second
    git(repository, "checkout", "-q", first)
    assert head_commit(repository) == first


def test_no_checkout(tmp_path: Path) -> None:
    assert head_commit(tmp_path) == ""


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
    before, watch = code_version(settings), CodeWatch(settings)
    assert head_commit(tasks) == git(tasks, "rev-parse", "HEAD")
    new = commit(tasks, "2")
    assert head_commit(tasks) == new
    assert code_version(settings) != before
    assert watch.has_changed()
    assert release_name(settings) == new[:12]
