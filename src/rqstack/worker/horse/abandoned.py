"""Fails an abandoned job, one whose process is gone: a side job, since RQ's methods may call users' code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from redis.exceptions import RedisError

from rqstack.registry.registry import registry
from rqstack.transport import keys
from rqstack.worker.horse.counters import field
from rqstack.worker.horse.rq_path import RQPath
from rqstack.worker.horse.running import RunningJob

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.lease import Lease

_PATIENCE = 30.0
"""Seconds for which it waits for Redis; then the supervisor starts the side job again."""


class AbandonedJob(NamedTuple):
    """A job that is to be failed.

    Args:
        lease: Its lease.
        reason: What is stored as its exception.
        stopped: It was stopped by a command.
        status: The wait status of its process; 0 if not known.
    """

    lease: Lease
    reason: str
    stopped: bool = False
    status: int = 0


def failure_reason(
    ended: str,
    max_crashes: int,
    *,
    stopped: bool = False,
    ignored_timeout: bool = False,
    killed_by_command: bool = False,
) -> str:
    """What is stored as the exception of an abandoned job, beginning as RQ does.

    Args:
        ended: How its process ended.
        max_crashes: How often a job may end its process.
        stopped: It was stopped by a command.
        ignored_timeout: It went on after its timeout.
        killed_by_command: Its process was killed by a command.
    """
    if stopped:
        return "Job stopped by user, work-horse terminated."
    if ignored_timeout:
        return "The job ignored its timeout; its work-horse was killed."
    if killed_by_command:
        return f"Work-horse terminated unexpectedly; {ended}; it was killed by a command."
    return (
        f"Work-horse terminated unexpectedly; {ended}; the job has ended its process {max_crashes} times, so it is not "
        "run again. See RQSTACK_MAX_CRASHES."
    )


def fail_abandoned(worker: BaseWorker, abandoned: AbandonedJob) -> bool:
    """Fail the job, as RQ does for a horse that has died.

    Args:
        worker: The RQ worker in whose name it is recorded.
        abandoned: The job.

    Returns:
        Whether it is done; if not, Redis is unavailable.
    """
    lease = abandoned.lease
    running = RunningJob(lease.queue, lease.job_id, lease.execution, 0.0, None, worker=lease.worker)
    rq_path = RQPath(worker)
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            job = rq_path.read(running)
            if job is not None and not abandoned.stopped:
                worker.handle_work_horse_killed(job, 0, abandoned.status, None)  # type: ignore[no-untyped-call]
            if rq_path.abandon(running, abandoned.reason, stopped=abandoned.stopped):
                # If it is requeued, with better code perhaps, its crashes are counted from zero.
                worker.connection.delete(keys.crashes(lease.job_id))
                described = (job.description or "").partition("(")[0] if job is not None else ""
                task = described if described in registry else "unknown"
                outcome = "stopped" if abandoned.stopped else "killed"
                worker.connection.hincrbyfloat(keys.METRICS, field("processed", lease.queue, task, outcome), 1)
                return True
        except RedisError as error:
            worker.log.warning(
                "Worker %s: the outcome of job %s cannot be recorded yet: %s", worker.name, lease.job_id, error
            )
        time.sleep(0.2)
    return False
