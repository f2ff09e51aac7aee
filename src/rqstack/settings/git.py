"""Reads the current commit of a Git checkout from Git's files, so `git` need not be installed."""

from __future__ import annotations

from pathlib import Path


def head_commit(folder: Path) -> str:
    """The commit that is checked out in the repository around a folder; "" without a repository or a commit.

    Args:
        folder: In a checkout, a worktree or a submodule. Resolve symbolic links first: its parents are searched.
    """
    git = next((parent / ".git" for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)
    if git is None:
        return ""
    try:
        if git.is_file():  # a worktree or a submodule
            git = (git.parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
        common = git / "commondir"
        shared = (git / common.read_text().strip()).resolve() if common.is_file() else git
        at = (git / "HEAD").read_text().strip()
        if not at.startswith("ref:"):
            return at
        name = at.removeprefix("ref:").strip()
        for place in (git / name, shared / name):
            if place.is_file():
                return place.read_text().strip()
        packed = shared / "packed-refs"
        if packed.is_file():
            for line in packed.read_text().splitlines():
                commit, _, ref = line.partition(" ")
                if ref == name:
                    return commit
    except OSError:
        return ""
    return ""
