"""Fails an abandoned job, one whose process is gone. That is a side job, since it calls users' code."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError

from rqstack.registry.registry import registry
from rqstack.transport import keys
from rqstack.transport.raw import RawConnection
from rqstack.worker.horse.callbacks import call_back
from rqstack.worker.horse.counters import field
from rqstack.worker.horse.rq_job import read_job
from rqstack.worker.horse.webhooks import send_stored_webhooks
from rqstack.worker.outcome import Outcome, encode_traceback
from rqstack.worker.scripts import JOB_TIMEOUT
from rqstack.worker.settle import new_call_id, settle

if TYPE_CHECKING:
    from rq.job import Job

    from rqstack.worker.base import BaseWorker
    from rqstack.worker.lease import Lease

_PATIENCE = 30.0
"""Seconds for which it waits for Redis; then the supervisor starts the side job again."""


class AbandonedJob(NamedTuple):
    """A job that is to be failed.

    Args:
        lease: Its lease.
        reason: The text that is stored as its exception.
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
    cause: str = "",
    stopped: bool = False,
    ignored_timeout: bool = False,
    killed_by_command: bool = False,
) -> str:
    """The text that is stored as the exception of an abandoned job; it begins as RQ's.

    Args:
        ended: How its process ended.
        max_crashes: How often a job may end its process.
        cause: From `likely_cause`.
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
        f"Work-horse terminated unexpectedly; {ended}{cause}; the job has ended its process {max_crashes} times, so it "
        "is not run again. See RQSTACK_MAX_CRASHES."
    )


def fail_abandoned(worker: BaseWorker, abandoned: AbandonedJob) -> bool:
    """Settle the job, as RQ does for a horse that has died: it fails, is retried, or is stopped.

    Args:
        worker: The RQ worker that does it.
        abandoned: The job.

    Returns:
        Whether it is done; if not, Redis is unavailable.
    """
    lease = abandoned.lease
    connection = RawConnection(worker.connection)
    deadline = time.monotonic() + _PATIENCE
    job: Job | None = None
    is_notified = False
    call_id = new_call_id()
    while time.monotonic() < deadline:
        try:
            if not is_notified:
                job = read_job(worker, lease.job_id, lease.queue, JOB_TIMEOUT)
                is_notified = True
                if job is not None:
                    _notify(worker, abandoned, job)
            recorded = settle(connection, lease, _outcome(abandoned, job), call_id)
            if recorded == "again":  # the reply of an earlier try was lost
                status: Any = worker.connection.hget(keys.JOB + lease.job_id, "status")
                recorded = (status or b"failed").decode()
            if recorded != "fenced":
                _count(worker, lease, job, "stopped" if abandoned.stopped else "killed")
            if job is not None and recorded == "failed":
                send_stored_webhooks(job, "failed", abandoned.reason)
            # If it runs again, with better code perhaps, its crashes are counted from zero.
            worker.connection.delete(keys.crashes(lease.job_id))
            return True
        except RedisError as error:
            worker.log.warning(
                "Worker %s: the outcome of job %s cannot be recorded yet: %s", worker.name, lease.job_id, error
            )
        time.sleep(0.2)
    return False


def _notify(worker: BaseWorker, abandoned: AbandonedJob, job: Job) -> None:
    """Call users' code about the job: the stopped callback, or the handler of killed horses."""
    try:
        if not abandoned.stopped:
            worker.handle_work_horse_killed(job, 0, abandoned.status, None)  # type: ignore[no-untyped-call]
        elif name := job._stopped_callback_name:
            timeout = str(job.stopped_callback_timeout).encode()
            call_back(worker, name.encode(), timeout, "stopped", job)
    except Exception:
        worker.log.exception("Job %s: its stopped callback, or the handler of killed work-horses, has failed", job.id)


def _outcome(abandoned: AbandonedJob, job: Job | None) -> Outcome:
    lease, ended = abandoned.lease, time.time()
    started = job.started_at if job is not None else None
    began = ended if started is None else started.timestamp()
    outcome = Outcome(
        "stopped" if abandoned.stopped else "failed",
        *(lease.job_id, lease.execution, lease.queue),
        value=encode_traceback(abandoned.reason),
        began=began,
        ended=ended,
        ran=None if started is None else ended - began,
    )
    if job is not None and job.rate_limit_key:
        outcome.more["limit"] = job.rate_limit_key
    return outcome


def _count(worker: BaseWorker, lease: Lease, job: Job | None, status: str) -> None:
    described = (job.description or "").partition("(")[0] if job is not None else ""
    task = described if described in registry else "unknown"
    worker.connection.hincrbyfloat(keys.METRICS, field("processed", lease.queue, task, status), 1)
