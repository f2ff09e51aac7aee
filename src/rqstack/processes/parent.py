"""Ends a child process with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
_PATIENCE = 5.0


def die_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel signal this process when its parent ends, for whatever reason.

    Linux only; elsewhere a horse checks between two jobs whether its parent still exists.

    Args:
        parent: The parent's process id, read before the fork.
        number: The signal. Default: SIGKILL.
    """
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os._exit(1)


def wait_for_end(pid: int) -> None:
    """Kill a process that is not this one's child, and wait until it is gone.

    Args:
        pid: The process; it leads a group, which is killed with it.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, signal.SIGKILL)
            if _is_zombie(pid):
                return
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.002)


def _is_zombie(pid: int) -> bool:
    """Whether it has ended and only waits for its parent to reap it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - in a loop
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return not os.path.isdir("/proc/self")  # noqa: PTH112
