"""Tasks for message backends. Each notes what it does in a file of the folder that OUT names."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from rqstack import queue_command, task


def note(name: str, text: object) -> None:
    """Add a line to a file."""
    with Path(os.environ["OUT"], name).open("a") as file:
        file.write(f"{text}\n")


@queue_command
def letter(number: int, *, to: str = "you") -> None:
    note("letters", f"{number} {to}")


@queue_command
async def later(number: int) -> None:
    await asyncio.sleep(0)
    note("letters", f"{number} async")


@task(queue="other")
def elsewhere(number: int) -> None:
    note("letters", f"{number} elsewhere")


@task(retries=2)
def fails(number: int) -> None:
    note("tries", number)
    raise RuntimeError("never mind")


@task(timeout=1)
def too_long() -> None:
    note("began", os.getpid())
    time.sleep(60)


@task
def slow(seconds: float) -> None:
    """Work for some seconds, in steps that a signal does not cut short."""
    note("began", os.getpid())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
    note("ended", os.getpid())


@task
def once_slow() -> None:
    """Take long until there is a file named `go`."""
    note("began", os.getpid())
    if not Path(os.environ["OUT"], "go").exists():
        time.sleep(60)
    note("ended", os.getpid())


@task
def deadly() -> None:
    """Kill the process."""
    note("began", os.getpid())
    os.kill(os.getpid(), 9)


@task(unique=True)
def alone() -> None: ...
