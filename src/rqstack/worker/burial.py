"""Failing a job whose process is gone: by RQ's own methods, in a process of its own, since it may call users' code."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import RedisError

from rqstack.discovery import registry
from rqstack.worker.counters import field
from rqstack.worker.scripts import METRICS, crashes_key
from rqstack.worker.slow import Running, SlowPath

if TYPE_CHECKING:
    from rqstack.worker.recovery import Held
    from rqstack.worker.worker import Worker

_PATIENCE = 30.0
"""Seconds for which a burial waits for Redis; then it is begun anew."""


class Burial(NamedTuple):
    """A job to be failed.

    Args:
        held: The job.
        reason: What is stored as its exception.
        stopped: A person's command stopped it.
        status: The wait status of its process; 0 if not known.
    """

    held: Held
    reason: str
    stopped: bool = False
    status: int = 0


def bury(worker: Worker, burial: Burial) -> bool:
    """Fail the job, as RQ does for a horse that has died.

    Args:
        worker: In whose name.
        burial: The job.

    Returns:
        Whether it is done; if not, Redis is away.
    """
    held = burial.held
    running = Running(held.queue, held.job_id, held.execution, 0.0, None)
    slow = SlowPath(worker)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            job = slow.read(running)
            if job is not None and not burial.stopped:
                worker.handle_work_horse_killed(job, 0, burial.status, None)  # type: ignore[no-untyped-call]
            if slow.bury(running, burial.reason, stopped=burial.stopped):
                # If somebody requeues it, with better code perhaps, it is counted anew.
                worker.connection.delete(crashes_key(held.job_id))
                described = (job.description or "").partition("(")[0] if job is not None else ""
                task = described if described in registry else "unknown"
                outcome = "stopped" if burial.stopped else "killed"
                worker.connection.hincrbyfloat(METRICS, field("processed", held.queue, task, outcome), 1)
                return True
        except RedisError as error:
            worker.log.warning("Worker %s: job %s waits to be recorded: %s", worker.name, held.job_id, error)
        time.sleep(0.2)
    return False


def describe(status: int) -> str:
    """A wait status in RQ's words."""
    ended_by = f" (signal {os.WTERMSIG(status)})" if os.WIFSIGNALED(status) else ""
    return f"waitpid returned {status}{ended_by}"
