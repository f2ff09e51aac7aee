"""Liveness: a file that a process touches while its loop goes round, which health checks read.

It says nothing of Redis, so an outage of Redis restarts nobody. The files are in `var/alive/` of the home; in a
container that is in memory. Imports next to nothing, because the health check uses it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rqstack.processes.private_files import open_private
from rqstack.processes.signals import is_alive
from rqstack.settings.paths import home

WORKER, SCHEDULER = "worker", "scheduler"
"""Kinds of processes."""

MAX_AGE = 60.0
"""Seconds after which a process that has not touched its file counts as hung. A loop that cannot reach Redis, or find
its address, takes ten and more to go round."""

_INTERVAL = 1.0
"""Seconds between two touches of the file."""


class LiveProcess(NamedTuple):
    """A process of this host that is alive.

    Args:
        queues: The queues that it serves.
        code: The version of the task code that it has loaded; "" if it does not watch the code.
    """

    pid: int
    queues: tuple[str, ...]
    code: str


class Liveness:
    """The file of this process.

    Args:
        kind: WORKER or SCHEDULER.
        queues: The queues that it serves.
    """

    def __init__(self, kind: str, queues: Sequence[str] = ()) -> None:
        self._path = folder(home()) / f"{kind}.{os.getpid()}.{os.uname().nodename}"
        self._queues = queues
        self._text: str | None = None
        self._due = 0.0
        self._is_broken = False

    def touch(self, code: str = "") -> None:
        """Touch the file. It is cheap: the file is written at most once a second.

        Args:
            code: The version of the task code that the process has loaded.
        """
        moment = time.monotonic()
        text = "\n".join((code, *self._queues))
        if moment < self._due and text == self._text:
            return
        self._due = moment + _INTERVAL
        try:
            if text == self._text:
                os.utime(self._path)
            else:
                self._write(text)
            self._is_broken = False
        except OSError as error:
            self._text = None  # somebody may have removed the file
            if not self._is_broken:
                import logging

                self._is_broken = True
                logging.getLogger("rqstack").warning(
                    "Cannot write %s: %s. Health checks will call this process unhealthy", self._path, error.strerror
                )

    def _write(self, text: str) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}")
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", opener=open_private) as file:
            file.write(text)
        temporary.replace(self._path)
        self._text = text

    def remove(self) -> None:
        """Remove the file, and the folders that are empty without it."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()
            self._path.parent.parent.rmdir()


def folder(root: Path) -> Path:
    """The folder of the files.

    Args:
        root: The home.
    """
    return root / "var" / "alive"


def alive(root: Path, kind: str, max_age: float = MAX_AGE) -> Iterator[LiveProcess]:
    """The processes of this host that run and have touched their file lately.

    Args:
        root: Their home.
        kind: WORKER or SCHEDULER.
        max_age: Seconds.
    """
    host = os.uname().nodename
    now = time.time()
    for path in sorted(folder(root).glob(f"{kind}.*")):
        _, pid, where = path.name.split(".", 2) if path.name.count(".") > 1 else ("", "", "")
        if where != host or not (pid.isascii() and pid.isdecimal() and 0 < len(pid) < 10):
            continue
        try:
            is_fresh = now - path.stat().st_mtime <= max_age
            code, *queues = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        except OSError:
            continue
        if not is_alive(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()  # it was killed
        elif is_fresh:
            yield LiveProcess(int(pid), tuple(queues), code)
