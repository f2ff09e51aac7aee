"""Other processes: whether they exist, whose they are, and signals to them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rqstack.errors import RqstackError


def send_signal(pid: int, number: int) -> None:
    """Send a signal. Does nothing if the process has ended.

    Raises:
        RqstackError: The process belongs to another user.
    """
    try:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    except PermissionError:
        raise RqstackError(f"Process {pid} belongs to another user. Stop it as the user who started it.") from None


def is_alive(pid: int) -> bool:
    """Whether a process exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def owner_of_process(pid: int) -> int | None:
    """The user id of a process; None if it has ended, or this system does not tell."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None
