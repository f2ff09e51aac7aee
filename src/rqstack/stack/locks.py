"""Locks of the processes of a local stack: each locks a file in `var/run/`, which contains its process id.

The kernel releases the lock however the process ends, so a stale file is never taken for a running process.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rqstack.errors import RqstackError
from rqstack.processes.private_files import open_private, private_folder
from rqstack.processes.signals import owner_of_process


class AlreadyRunning(RqstackError):
    """Another process holds the lock. The message has its id."""


def folder(root: Path) -> Path:
    """The folder of the lock files. Created if needed.

    Raises:
        RqstackError: It belongs to another user.
    """
    private_folder(root / "var")
    return private_folder(root / "var" / "run")


def acquire(root: Path, name: str, pid: int) -> IO[str]:
    """Take the lock of a process. It is released when the returned file is closed or the process ends.

    Args:
        name: honcho's name of the process: `worker.1`.
        pid: The process to signal in order to stop it.

    Raises:
        AlreadyRunning: Another process holds the lock.
        RqstackError: The file is a symbolic link, or belongs to another user.
    """
    file = _open(folder(root) / name, "a+")
    deadline = time.monotonic() + 1
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # `running_processes` takes it too, for a moment.
            if time.monotonic() > deadline:
                file.seek(0)
                owner = file.read().strip()
                file.close()
                raise AlreadyRunning(
                    f"{name} of {root} already runs as process {owner}. `make stop` ends it."
                ) from None
            time.sleep(0.02)
    file.truncate(0)
    file.write(f"{pid}\n")
    file.flush()
    return file


def running_processes(root: Path) -> Iterator[tuple[str, int]]:
    """The running processes as (name, process id), ordered by name.

    Raises:
        RqstackError: A lock file is a symbolic link, or belongs to another user.
    """
    for path in sorted(folder(root).iterdir()):
        with _open(path, "r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                # A process of another user is none of the stack, whatever the file says.
                if text.isdigit() and owner_of_process(int(text)) in (os.fstat(file.fileno()).st_uid, None):
                    yield path.name, int(text)


def _open(path: Path, mode: str) -> IO[str]:
    try:
        return open(path, mode, opener=open_private)
    except OSError as error:
        raise RqstackError(f"The lock file {path} cannot be used: {error.strerror}. Remove it.") from None
