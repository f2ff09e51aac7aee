"""Two tasks for a stack without Docker."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rqstack import task


@task(queue="short-running")
def add(a: int, b: int) -> int:
    return a + b


@task(queue="default")
def sleep(seconds: float, mark: str) -> str:
    """Add a line to a file, and sleep."""
    with Path(mark).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return "slept"
