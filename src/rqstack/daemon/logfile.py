"""The daemon's log file, which tools such as logrotate may move at any time."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any

from rqstack.errors import DaemonError
from rqstack.settings import ownership


class LogFile(io.RawIOBase):
    """An append-only file that is reopened when it was moved or deleted.

    Each write checks the path, so every process of a worker reopens it without a signal.

    Args:
        path: Its folder is created.

    Raises:
        DaemonError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            # mkdir reports "File exists" if a parent is a file.
            reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
            raise DaemonError(f"The log {path} cannot be written: {reason}. Choose another with -l.") from None
        self._identity = _identity(os.fstat(self._file))

    def capture(self) -> None:
        """Redirect stdout and stderr of this process and its children to the file."""
        for number in (1, 2):
            os.dup2(self._file, number)
        for name in ("stdout", "stderr"):
            setattr(sys, name, io.TextIOWrapper(self, "utf-8", "backslashreplace", write_through=True))

    def reopen(self) -> None:
        """Reopen the path, creating the file if needed. If that fails, keep the old file."""
        try:
            file = self._open()
        except OSError:
            return
        captured = [number for number in (1, 2) if _identity(os.fstat(number)) == self._identity]
        os.dup2(file, self._file)
        for number in captured:
            os.dup2(file, number)
        os.close(file)
        self._identity = _identity(os.fstat(self._file))

    def write(self, data: Any) -> int:
        try:
            moved = _identity(self.path.stat()) != self._identity
        except OSError:
            moved = True
        if moved:
            self.reopen()
        return os.write(self._file, data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file

    def _open(self) -> int:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if problem := ownership.problem(os.fstat(file)):
            os.close(file)
            raise OSError(errno.EPERM, problem, str(self.path))
        return file


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
