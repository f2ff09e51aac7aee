"""Ends whatever this process has started, directly or not."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Container

import psutil

PR_SET_CHILD_SUBREAPER = 36  # of <linux/prctl.h>


def adopt_orphans() -> None:
    """What is started here stays this process's, whoever of its parents ends first. (Linux only.)"""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end(keep: Container[int] = ()) -> None:
    """Kill all descendants.

    Args:
        keep: Process ids that are left.
    """
    while left := [process for process in psutil.Process().children(recursive=True) if process.pid not in keep]:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                process.kill()
                process.wait(1)
