"""Commands and processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil


def rqstack_command(*arguments: str) -> list[str]:
    """The real command line, with the interpreter of the tests."""
    return [sys.executable, "-m", "rqstack.cli.main", *arguments]


def environment_without(*prefixes: str) -> dict[str, str]:
    """The environment of the tests without the variables that begin so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


def start(
    command: list[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a process that appends what it says to a log."""
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=env, cwd=cwd)


def end(*processes: subprocess.Popen[Any], seconds: float = 20) -> None:
    """Ask processes to stop; kill those that do not in time."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
