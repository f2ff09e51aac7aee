"""Fails an abandoned job, one whose process is gone. That is a side job, since it calls users' code."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from rqstack.registry.registry import registry
from rqstack.security.webhooks import SIGNATURE
from rqstack.transport import keys
from rqstack.transport.errors import is_damage
from rqstack.transport.raw import RawConnection
from rqstack.transport.replies import decode
from rqstack.transport.timestamps import parse
from rqstack.worker.horse.callbacks import call_back
from rqstack.worker.horse.counters import field
from rqstack.worker.horse.lazy_job import lazy_job
from rqstack.worker.horse.webhooks import send_webhooks
from rqstack.worker.outcome import Outcome, encode_traceback
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
        is_notified: Users' code is not called about it, since the side job that did so has died.
    """

    lease: Lease
    reason: str
    stopped: bool = False
    status: int = 0
    is_notified: bool = False


_FIELDS = (
    *("status", "started_at", "description", "rate_limit_key", "webhooks", SIGNATURE),
    *("stopped_callback_name", "stopped_callback_timeout"),
)

_LONGEST = 1 << 20
"""Bytes from which on a field of a record is left out."""


class _Record(NamedTuple):
    """What is read of a job's record, in the order of `_FIELDS`."""

    exists: bool = False
    started_at: bytes | None = None
    description: bytes | None = None
    rate_limit: bytes | None = None
    webhooks: bytes | None = None
    webhooks_signature: bytes | None = None
    stopped_callback: bytes | None = None
    stopped_callback_timeout: bytes | None = None


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

    Its payload is not read: that may be what has ended its processes.

    Args:
        worker: The RQ worker that does it.
        abandoned: The job.

    Returns:
        Whether it is done; if not, Redis is unavailable.
    """
    lease = abandoned.lease
    connection = RawConnection(worker.connection)
    deadline = time.monotonic() + _PATIENCE
    record: _Record | None = None
    is_notified = abandoned.is_notified
    call_id = new_call_id()
    while time.monotonic() < deadline:
        try:
            record = record or _read(worker, lease.job_id)
            if not is_notified:
                is_notified = True
                if record.exists:
                    _notify(worker, abandoned, record)
            recorded = settle(connection, lease, _outcome(abandoned, record), call_id)
            if recorded == "again":  # the reply of an earlier try was lost
                status: Any = worker.connection.hget(keys.JOB + lease.job_id, "status")
                recorded = decode(status or b"failed")
            if recorded != "fenced":
                _count(worker, lease, record, "stopped" if abandoned.stopped else "killed")
            if record.webhooks and recorded == "failed":
                job = _job(worker, lease)
                send_webhooks(job, record.webhooks, record.webhooks_signature, "failed", abandoned.reason)
            # If it runs again, with better code perhaps, its crashes are counted from zero.
            worker.connection.delete(keys.crashes(lease.job_id))
            return True
        except RedisError as error:
            worker.log.warning(
                "Worker %s: the outcome of job %s cannot be recorded yet: %s", worker.name, lease.job_id, error
            )
        time.sleep(0.2)
    return False


def _read(worker: BaseWorker, job_id: str) -> _Record:
    """Read what settling needs. Not the payload and the meta: these may be what has ended the job's processes.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    try:
        found: Any = worker.connection.hmget(keys.JOB + job_id, _FIELDS)
    except ResponseError as error:
        if not is_damage(error):
            raise
        return _Record()  # a key of another type; settle.lua finds that too
    exists = any(value is not None for value in found)
    return _Record(exists, *(value if value is None or len(value) <= _LONGEST else None for value in found[1:]))


def _job(worker: BaseWorker, lease: Lease) -> Job:
    """The job as users' code gets it: its record is read when that code uses it."""
    return lazy_job(worker.job_class, lease.job_id, worker.connection, worker.serializer)


def _notify(worker: BaseWorker, abandoned: AbandonedJob, record: _Record) -> None:
    """Call users' code about the job: the stopped callback, or the handler of killed horses."""
    job = _job(worker, abandoned.lease)
    try:
        if not abandoned.stopped:
            worker.handle_work_horse_killed(job, 0, abandoned.status, None)  # type: ignore[no-untyped-call]
        elif record.stopped_callback:
            call_back(worker, record.stopped_callback, record.stopped_callback_timeout, "stopped", job)
    except Exception:
        worker.log.exception("Job %s: its stopped callback, or the handler of killed work-horses, has failed", job.id)


def _outcome(abandoned: AbandonedJob, record: _Record) -> Outcome:
    lease, ended = abandoned.lease, time.time()
    started = parse(decode(record.started_at))
    outcome = Outcome(
        "stopped" if abandoned.stopped else "failed",
        *(lease.job_id, lease.execution, lease.queue),
        value=encode_traceback(abandoned.reason),
        began=ended if started is None else started,
        ended=ended,
        ran=None if started is None else max(ended - started, 0.0),
    )
    if record.rate_limit:
        outcome.more["limit"] = decode(record.rate_limit)
    return outcome


def _count(worker: BaseWorker, lease: Lease, record: _Record, status: str) -> None:
    described = decode(record.description).partition("(")[0]
    task = described if described in registry else "unknown"
    with contextlib.suppress(ResponseError):  # damaged metrics must not keep the job from being settled
        worker.connection.hincrbyfloat(keys.METRICS, field("processed", lease.queue, task, status), 1)
