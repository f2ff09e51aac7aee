"""Sends signals to other processes."""

from __future__ import annotations

import contextlib
import os

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
