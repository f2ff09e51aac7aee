"""Describes the exit status of a child process, in RQ's words."""

from __future__ import annotations

import os
import signal


def describe(status: int) -> str:
    """A wait status, as `os.waitpid` returns it, as text."""
    ended_by = f" (signal {os.WTERMSIG(status)})" if os.WIFSIGNALED(status) else ""
    return f"waitpid returned {status}{ended_by}"


def likely_cause(status: int) -> str:
    """The likely cause of an end that nobody here has asked for, as the end of a sentence; "" if none is likely.

    Args:
        status: A wait status.
    """
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "; the likely cause is that memory ran out: raise WORKER_MEMORY, or make the job use less"
    return ""
