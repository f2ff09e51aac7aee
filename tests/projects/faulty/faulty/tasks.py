"""Tasks that go wrong. Each writes down when it begins and ends, in a file that outlives every process."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

from rq import get_current_job

from rqstack import task

# One write of a short line to a file opened to append is whole, whoever else writes.
_journal = os.open(os.environ.get("FAULTS_JOURNAL", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(what: str, job_id: str = "") -> str:
    """Write a line: what, job id (that of the running job), process, time. Returns the id."""
    if not job_id:
        job = get_current_job()
        assert job is not None
        job_id = job.id
    os.write(_journal, f"{what} {job_id} {os.getpid()} {time.time():.6f}\n".encode())
    return job_id


@task
def work(seconds: float = 0.0) -> str:
    """Takes its time, and returns its own id."""
    note("begin")
    if seconds:
        time.sleep(seconds)
    return note("end")


@task
def long_once(flag: str, seconds: float) -> str:
    """Takes long the first time; after that nearly no time."""
    note("begin")
    if not Path(flag).exists():
        Path(flag).touch()
        time.sleep(seconds)
    return note("end")


@task
def with_child(flag: str) -> str:
    """Starts a program, the first time, and waits for it."""
    note("begin")
    if not Path(flag).exists():
        child = subprocess.Popen(["sleep", "300"])
        new = Path(flag + ".new")
        new.write_text(str(child.pid))
        new.rename(flag)
        child.wait()
    return note("end")


@task
def segfault() -> None:
    """Reads where nothing is."""
    note("begin")
    ctypes.string_at(0)


@task
def leave(code: int) -> None:
    """Ends its process without a word."""
    note("begin")
    os._exit(code)


@task
def killed() -> None:
    """Dies as by the kernel's out-of-memory killer."""
    note("begin")
    os.kill(os.getpid(), signal.SIGKILL)


@task
def murder() -> None:
    """Kills the whole worker that runs it."""
    note("begin")
    forkserver = os.getppid()
    supervisor = int(Path(f"/proc/{forkserver}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(supervisor, signal.SIGKILL)
    time.sleep(300)


@task
def greedy(mib: int) -> int:
    """Wants more memory than it may have."""
    note("begin")
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (mib << 19), before[1]))
    try:
        return len(bytearray(mib << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@task
def deaf(seconds: float) -> None:
    """Does not hear that its time is over."""
    note("begin")
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(seconds)
    note("end")


@task
def held(flag: str) -> str:
    """Says by a file that it runs, and ends when the file is gone."""
    note("begin")
    Path(flag).touch()
    while Path(flag).exists():
        time.sleep(0.01)
    return note("end")
