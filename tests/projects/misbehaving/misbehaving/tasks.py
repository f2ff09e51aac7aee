"""Tasks that harm the process that runs them, or return and raise what cannot be stored."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
import sys
import time
from collections.abc import Callable

from rq import get_current_job

from rqstack import task

_kept: list[int] = []


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text either")


@task
def unpicklable() -> Callable[[], None]:
    return lambda: None


@task
def mute() -> None:
    raise Mute


@task
def leave(code: object = 0) -> None:
    sys.exit(code)


@task
def interrupt() -> None:
    raise KeyboardInterrupt


@task
def recurse() -> None:
    return recurse.call_now() if hasattr(recurse, "call_now") else recurse()


@task
def huge(size: int) -> bytes:
    return b"x" * size


@task
def end_process(code: int) -> None:
    os._exit(code)


@task
def close_all() -> str:
    """Close every file of the process."""
    os.closerange(3, 4096)
    return "closed"


@task
def close_pipes() -> int:
    """Close the pipes of the process, but nothing else."""
    for number in range(3, 256):
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.fstat(number).st_mode):
                os.close(number)
    return os.getpid()


@task
def close_and_open() -> int:
    """Close every file of the process, and take the numbers for others."""
    os.closerange(3, 256)
    _kept.extend(os.open(os.devnull, os.O_RDWR) for _ in range(60))
    return os.getpid()


@task
def spoil_signals() -> int:
    """Take the process's signals."""
    for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    return os.getpid()


@task
def spoil_process() -> str:
    """Change what belongs to the whole process."""
    os.umask(0o777)
    os.chdir("/")
    sys.stdout.close()
    sys.stderr.close()
    return "spoiled"


@task
def fork() -> int:
    """Leave two processes that both think they run the job."""
    os.fork()
    return os.getpid()


@task
def leave_a_daemon() -> int:
    """Leave a process that has all open files of the worker, for a minute at most. Returns its id."""
    child = os.fork()
    if not child:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    return child


@task
def describe_oddly() -> str:
    """Note what no encoding has."""
    get_current_job().description = "\udc80"
    return "odd"


@task
def no_more_files() -> str:
    """Leave the process hardly any files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, hard))
    return "few"


@task
def hang(seconds: float = 60) -> None:
    time.sleep(seconds)
