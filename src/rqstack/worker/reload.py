"""Tells when task code has changed: a release was switched, a checkout moved, or (with `--reload`) a file was saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rqstack.home import home
from rqstack.settings import Settings

_SKIPPED = {"__pycache__", "node_modules", "var"}


class CodeWatch:
    """Looks at where the tasks come from.

    Args:
        settings: `tasks_path` says where; `reload` whether every saved file counts.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = home() / settings.tasks_path
        self._files = settings.reload
        self._seen = self._look()

    def has_changed(self) -> bool:
        """Whether the code is another than when this was last asked."""
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> tuple[object, ...]:
        folder = Path(os.path.realpath(self._folder))
        return (folder, _head(folder), tuple(_stamps(folder)) if self._files else ())


def release(settings: Settings) -> str:
    """The name of the task code in use: the release's id, else the start of the commit's; "" if it has neither."""
    folder = Path(os.path.realpath(home() / settings.tasks_path))
    if folder.parent.name == "releases":
        return folder.name
    return _head(folder)[:12]


def _head(folder: Path) -> str:
    """The commit that a folder's checkout is at, read from Git's files; "" if it is none."""
    git = next((parent / ".git" for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)
    if git is None:
        return ""
    try:
        if git.is_file():  # a worktree or a submodule
            git = (git.parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
        common = git / "commondir"
        shared = (git / common.read_text().strip()).resolve() if common.is_file() else git
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
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


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".py"):
                path = os.path.join(place, name)  # noqa: PTH118 - thousands of files, once a second
                try:
                    status = os.stat(path)  # noqa: PTH116
                except FileNotFoundError:
                    continue
                yield path, status.st_mtime_ns, status.st_size
