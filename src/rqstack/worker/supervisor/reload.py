"""Detects new task code: a release was switched, a checkout moved, or (with `--reload`) a file was saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rqstack.registry.code_version import code_version
from rqstack.settings.paths import home

if TYPE_CHECKING:
    from rqstack.settings import Settings

_SKIPPED = {"__pycache__", "node_modules", "var"}


class CodeWatch:
    """Compares the task code with what it was before.

    Args:
        settings: `tasks_path` says where it is; `reload` whether every saved file counts.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen = self._look()

    @property
    def version(self) -> str:
        """The version of the code that was seen last."""
        return str(self._seen[0])

    def has_changed(self) -> bool:
        """Whether the code has changed since this was last called."""
        before, self._seen = self._seen, self._look()
        return before != self._seen

    def _look(self) -> tuple[object, ...]:
        version = code_version(self._settings)
        if not self._settings.reload:
            return (version,)
        folder = Path(os.path.realpath(home() / self._settings.tasks_path))
        return (version, *_modification_times(folder))


def _modification_times(folder: Path) -> Iterator[tuple[str, int, int]]:
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
