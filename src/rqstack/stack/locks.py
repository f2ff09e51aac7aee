"""Who runs: each process of a local stack holds a lock on a file of its own in `var/run/`, with its id in it.

The kernel lets go of a lock when its process ends, however it ends, so a stale file never passes for a process.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rqstack.errors import RqstackError


class AlreadyRunning(RqstackError):
    """Another process holds the lock; the message has its id."""


def folder(root: Path) -> Path:
    """The folder of the locks, made if need be."""
    path = root / "var" / "run"
    path.mkdir(parents=True, exist_ok=True)
    return path


def hold(root: Path, name: str, pid: int) -> IO[str]:
    """Take the lock of a process. It is held until the file is closed, or the process ends.

    Args:
        root: The home of the stack.
        name: The process, as honcho names it: `worker.1`.
        pid: The id of the process that is to be told to stop.

    Raises:
        AlreadyRunning: It is held.
    """
    file = (folder(root) / name).open("a+")
    deadline = time.monotonic() + 1
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            # `holders` takes it too, for a moment.
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


def holders(root: Path) -> Iterator[tuple[str, int]]:
    """The processes that run, by name: (name, process id)."""
    for path in sorted(folder(root).iterdir()):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if (text := file.read().strip()).isdigit():
                    yield path.name, int(text)
