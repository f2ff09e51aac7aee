"""A pid file that its process locks. The kernel releases the lock however the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from rqstack.errors import DaemonError
from rqstack.processes.private_files import open_private
from rqstack.processes.signals import owner_of_process

LOCK_TIMEOUT = 1.0
"""Seconds to wait for the lock, which `owner` takes for a moment."""


class PidFile:
    """The pid file of a daemon. As a context manager it holds this process's id and a lock.

    The lock is a POSIX record lock, which children do not inherit, so a horse that outlives its supervisor does not
    hold it. A file without a lock is stale, whatever its content.

    Args:
        path: Its folder is created.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._pid: int | None = None

    def owner(self) -> int | None:
        """The id of the process that holds the lock, or None.

        The holder itself must not call this, because closing a file releases its POSIX locks.

        Raises:
            DaemonError: The file cannot be read, or it or the process belongs to another user.
        """
        try:
            file = open_private(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from None
        try:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = self._read(file)
                owner = owner_of_process(pid)
                if owner not in (os.fstat(file).st_uid, None):
                    raise DaemonError(
                        f"The pid file {self.path} names process {pid}, which belongs to another user."
                    ) from None
                return pid
            return None
        finally:
            os.close(file)

    def check(self) -> bool:
        """Check that the file can be written, without creating it.

        Returns:
            Whether a stale file exists.

        Raises:
            DaemonError: The file cannot be written.
        """
        exists = self.path.exists()
        os.close(self._open())
        if not exists:
            self.path.unlink(missing_ok=True)
        return exists

    def remove_stale(self) -> None:
        """Delete the file unless a process holds its lock."""
        if self.owner() is None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> PidFile:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            file = self._open()
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(file):
                    break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    pid = self._read(file)
                    os.close(file)
                    raise DaemonError(f"The worker already runs, as process {pid} ({self.path}).") from None
                time.sleep(0.02)
            os.close(file)
        self._file, self._pid = file, os.getpid()
        os.ftruncate(file, 0)
        os.write(file, f"{self._pid}\n".encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._file is None or self._pid != os.getpid():
            return  # this is a forked child, not the daemon
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._file)
        self._file = None

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return open_private(self.path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self._unusable(error) from None

    def _is_current(self, file: int) -> bool:
        """Whether the open file is still the one at the path: its last owner may have deleted it meanwhile."""
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False

    def _read(self, file: int) -> int:
        """The process id in a locked file. Waits for it, because the file is locked before it is written."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            text = os.pread(file, 32, 0).strip()
            if text.isdigit():
                return int(text)
            if time.monotonic() > deadline:
                raise DaemonError(f"The pid file {self.path} is locked but contains no process id.")
            time.sleep(0.01)

    def _unusable(self, error: OSError) -> DaemonError:
        # mkdir reports "File exists" if a parent is a file.
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        return DaemonError(f"The pid file {self.path} cannot be used: {reason}. Choose another with -p.")
