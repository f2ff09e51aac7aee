"""Tells when task code has changed: a release was switched, a checkout moved, or (with `--reload`) a file was saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rqstack.checkout import head
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
        return (folder, head(folder), tuple(_stamps(folder)) if self._files else ())


def release(settings: Settings) -> str:
    """The name of the task code in use: the release's id, else the start of the commit's; "" if it has neither."""
    folder = Path(os.path.realpath(home() / settings.tasks_path))
    if folder.parent.name == "releases":
        return folder.name
    return head(folder)[:12]


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
