"""Describes the exit status of a child process, in RQ's words."""

from __future__ import annotations

import os


def describe(status: int) -> str:
    """A wait status, as `os.waitpid` returns it, as text."""
    ended_by = f" (signal {os.WTERMSIG(status)})" if os.WIFSIGNALED(status) else ""
    return f"waitpid returned {status}{ended_by}"
