"""Runs a Procfile with honcho. `make start` leaves it running in the background if there is no Docker.

Unlike `honcho start`, each process has its own log file, and its full grace period to stop.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import honcho.manager
from honcho.environ import expand_processes, parse_procfile
from honcho.printer import Printer

from rqstack.errors import RqstackError
from rqstack.processes.private_files import open_private, private_folder
from rqstack.settings import Settings, load
from rqstack.stack import locks

LOG_BYTES = 10 * 2**20
LOG_FILES = 3
STOP_MARGIN = 20.0
"""Seconds that a stop may take in addition to the grace period of workers, because Redis stops last."""


class PrivateLog(logging.handlers.RotatingFileHandler):
    """A log file that no other user may read: it may show what jobs are called with."""

    def _open(self) -> TextIOWrapper:
        file = open(self.baseFilename, self.mode, opener=open_private)  # noqa: SIM115 - the handler closes it
        assert isinstance(file, TextIOWrapper)
        return file


class LogPrinter(Printer):  # type: ignore[misc]
    """Writes the output of each process to `<folder>/<process>.log`, and honcho's own to stdout."""

    def __init__(self, folder: Path) -> None:
        super().__init__(sys.stdout, colour=False)
        self.folder = folder
        self.files: dict[str, logging.handlers.RotatingFileHandler] = {}

    def write(self, message: Any) -> None:
        if message.name == honcho.manager.SYSTEM_PRINTER_NAME:
            super().write(message)
            return
        if message.name not in self.files:
            path = self.folder / f"{message.name}.log"
            handler = PrivateLog(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
            self.files[message.name] = handler
        text = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else message.data
        for line in text.splitlines():
            record = logging.makeLogRecord({"msg": f"{message.time:%Y-%m-%d %H:%M:%S} {line}"})
            self.files[message.name].emit(record)


def run(root: Path, procfile: str, concurrency: Mapping[str, int]) -> int:
    """Run the processes of a Procfile until one of them ends or SIGTERM arrives.

    Args:
        procfile: Its name in `root`, also the name of the lock.
        concurrency: Number of instances by process name. Default: 1.

    Returns:
        The exit code: 0 after SIGTERM, else that of the process that ended first.

    Raises:
        AlreadyRunning: It already runs.
        RqstackError: The Procfile cannot be read.
    """
    wait = load(Settings).grace + STOP_MARGIN
    honcho.manager.KILL_WAIT = wait
    try:
        lines = parse_procfile((root / procfile).read_text()).processes
    except OSError as error:
        raise RqstackError(f"cannot read {root / procfile}: {error.strerror}.") from error
    with locks.acquire(root, procfile, os.getpid()):
        folder = root / "var" / "log"
        private_folder(folder)
        manager = honcho.manager.Manager(LogPrinter(folder))
        for process in expand_processes(lines, concurrency=dict(concurrency)):
            environment = {**os.environ, **process.env, "RQSTACK_KILL_WAIT": str(wait)}
            manager.add_process(process.name, process.cmd, env=environment, cwd=str(root))
        manager.loop()
        return 0 if manager.returncode in (0, 143) else int(manager.returncode or 1)


if __name__ == "__main__":
    scale = {name: int(number) for name, _, number in (part.partition("=") for part in sys.argv[3:])}
    try:
        sys.exit(run(Path(sys.argv[1]), sys.argv[2], scale))
    except RqstackError as problem:
        sys.exit(f"Error: {problem}")
