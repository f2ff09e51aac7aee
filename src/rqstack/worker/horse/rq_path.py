"""Ends jobs that finish.lua cannot end (callbacks, dependents, retries, failures) by RQ's own methods."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError
from rq.callbacks import execute_failure_callback, execute_stopped_callback, execute_success_callback
from rq.executions import Execution
from rq.job import Job, JobStatus, Retry
from rq.rate_limit import RateLimitRegistry
from rq.timeouts import JobTimeoutException
from rq.utils import now

from rqstack.errors import InvalidJob, UnknownTask
from rqstack.limiting.snooze import Snooze
from rqstack.registry.discovery import check_callbacks, resolve
from rqstack.transport import keys
from rqstack.transport.no_retry import NoRetryRedis
from rqstack.transport.raw import Lost

if TYPE_CHECKING:
    from rq import Queue

    from rqstack.worker.base import BaseWorker
    from rqstack.worker.horse.running import RunningJob

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


class Outcome(NamedTuple):
    """How a job ended.

    Args:
        status: finished, failed, retried, snoozed (it is over its rate limit), deleted or fenced (another worker has
            it; nothing was recorded).
        exception: The class of what it raised, or "".
    """

    status: str
    exception: str = ""


class RQPath:
    """Ends jobs by RQ's own methods, fenced by the lease; a lost Redis is waited for.

    Args:
        worker: The RQ worker that this horse is.
    """

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._client = worker.connection
        # RQ's methods are not idempotent, so the client must not send a command again.
        self._no_retry = worker.connection = NoRetryRedis(worker.connection)

    def run(self, running: RunningJob) -> Outcome:
        """Run a job that needs RQ's methods afterwards: callbacks, dependents, repeats, webhooks, a group."""
        worker = self._worker
        job = self.job(running)
        if job is None:
            return Outcome("deleted")
        try:
            check_callbacks(job)
            running.name = job.func_name or ""
            resolve(running.name, job.instance)
            with worker.death_penalty_class(running.timeout, JobTimeoutException, job_id=job.id):
                value = job.perform()
        except BaseException:
            return self.fail(running, _current(), job)
        return self.succeed(running, value, job)

    def succeed(self, running: RunningJob, value: Any, job: Job | None = None) -> Outcome:
        """Record that a job returned a value.

        Args:
            running: The job.
            value: What it returned.
            job: RQ's object for it, if it is known already.
        """
        worker = self._worker
        job = job or self.job(running)
        if job is None:
            return Outcome("deleted")
        queue = self.queue(job)
        job.ended_at = now()
        job._result = value
        if isinstance(value, Retry):
            registry = queue.started_job_registry
            done = self._record(running, job, lambda run: worker.handle_job_retry(job, queue, value, registry, run))
            if done and isinstance(value, Snooze):
                return Outcome("snoozed")
            return Outcome(_status(job)) if done else Outcome("fenced")
        try:
            job._status = JobStatus.FINISHED
            execute_success_callback(job, worker.death_penalty_class, value)
        except BaseException:
            return self.fail(running, _current(), job)
        registry = queue.started_job_registry
        done = self._record(running, job, lambda run: worker.handle_job_success(job, queue, registry, run))
        if done:
            job.send_webhooks(JobStatus.FINISHED)
        return Outcome("finished" if done else "fenced")

    def fail(self, running: RunningJob, exc_info: ExcInfo, job: Job | None = None) -> Outcome:
        """Record that a job raised. Arguments as `succeed`."""
        worker = self._worker
        job = job or self.job(running)
        if job is None:
            return Outcome("deleted")
        queue = self.queue(job)
        if not self._owned(running):
            self._drop(running, job)
            return Outcome("fenced")
        job._status = JobStatus.FAILED
        job.ended_at = now()
        exc_string = "".join(traceback.format_exception(*exc_info))
        try:
            check_callbacks(job)
            execute_failure_callback(job, worker.death_penalty_class, *exc_info)
        except BaseException:
            exc_info = _current()
            exc_string = "".join(traceback.format_exception(*exc_info))
        worker.handle_exception(job, *exc_info)
        done = self._record(
            running, job, lambda run: worker.handle_job_failure(job, queue, exc_string=exc_string, execution=run)
        )
        return Outcome(_status(job), exc_info[0].__name__) if done else Outcome("fenced")

    def note_release(self, running: RunningJob, release: str) -> None:
        """Write the release of the task code into a job's meta that has other things in it."""
        job = self.job(running)
        with contextlib.suppress(RedisError):
            if job is not None:
                job.meta["release"] = release
                job.save_meta()

    def abandon(self, running: RunningJob, reason: str, *, stopped: bool) -> bool:
        """Fail a job whose process is gone, as RQ's `monitor_work_horse` does.

        Args:
            running: The job.
            reason: What is stored as its exception.
            stopped: It was stopped by a person's command.

        Returns:
            Whether it is settled; if not, Redis is unavailable, and it is to be tried again.
        """
        worker = self._worker
        try:
            job = self.read(running)
            if job is None or not self._is_owned(running):
                return True
            if stopped:
                worker._stopped_job_id = job.id
                with contextlib.suppress(UnknownTask):
                    check_callbacks(job)
                with contextlib.suppress(Exception):  # RQ has logged it
                    execute_stopped_callback(job, worker.death_penalty_class)
            job.ended_at = now()
            worker.handle_job_failure(job, self.queue(job), exc_string=reason, execution=self._execution(running))
            if self._is_owned(running):
                return False
            self._release_slot(job)
            return True
        except RedisError as error:
            worker.log.warning(
                "Worker %s: the outcome of job %s cannot be recorded yet: %s", worker.name, running.job_id, error
            )
            return False

    def job(self, running: RunningJob) -> Job | None:
        """RQ's object for a job; None if it was deleted. One whose record is damaged comes as far as it can be read."""
        while True:
            try:
                return self.read(running)
            except Lost:
                time.sleep(0.2)

    def read(self, running: RunningJob) -> Job | None:
        """As `job`, but a lost Redis is an error."""
        worker = self._worker
        raw: Any = worker.connection.hgetall(Job.key_for(running.job_id))
        if not raw:
            return None
        job = worker.job_class(running.job_id, connection=self._client, serializer=worker.serializer)
        try:
            job.restore(raw)
        except Exception as error:
            job = worker.job_class(running.job_id, connection=self._client, serializer=worker.serializer)
            job.data = raw.get(b"data", b"")
            with contextlib.suppress(zlib.error):
                job.data = zlib.decompress(job.data)
            job.origin, job.timeout = running.queue, running.timeout
            job.description = f"damaged record: {error}"
        job.origin = job.origin or running.queue
        return job

    def queue(self, job: Job) -> Queue:
        """The queue a job belongs to."""
        worker = self._worker
        return worker.queue_class(
            job.origin,
            connection=worker.connection,
            job_class=worker.job_class,
            serializer=worker.serializer,
            death_penalty_class=worker.death_penalty_class,
        )

    def _owned(self, running: RunningJob) -> bool:
        """Whether this execution is still on record; else another worker has the job, or it was recorded."""
        wait = 0.05
        while True:
            try:
                return self._is_owned(running)
            except Lost:
                time.sleep(wait)
                wait = min(wait * 2, 2)

    def _is_owned(self, running: RunningJob) -> bool:
        key, member = keys.STARTED + running.queue, f"{running.job_id}:{running.execution}"
        connection = self._worker.connection
        if connection.zscore(key, member) is not None:
            return True
        # A job that was canceled while it ran has left the registry; RQ records how it ended all the same.
        return connection.hget(Job.key_for(running.job_id), "status") == b"canceled"

    def _execution(self, running: RunningJob) -> Execution:
        """RQ's object for a run of a job."""
        worker = self._worker
        execution = Execution(running.execution, running.job_id, worker.connection, running.worker or worker.name)
        if running.started:
            execution.created_at = datetime.fromtimestamp(running.started, UTC)
        return execution

    def _drop(self, running: RunningJob, job: Job) -> None:
        """Remove the record of a run that counts no more, so that it keeps no slot of a rate limit.

        RQ leaves that record to the worker where a job with a rate limit is deleted while it runs.
        """
        if not job.has_rate_limit:
            return
        with contextlib.suppress(RedisError), self._client.pipeline() as pipeline:
            self._execution(running).delete(job, pipeline)
            pipeline.execute()
            self._release_slot(job)

    def _release_slot(self, job: Job) -> None:
        """Release a job's slot of a rate limit, where RQ's method lost Redis between the outcome and the slot.

        It does nothing where the slot is free already, or the job is queued again and keeps it. RQ's maintenance finds
        the slot too, minutes later: so there is one try.
        """
        if job.has_rate_limit:
            with contextlib.suppress(RedisError):
                RateLimitRegistry(job.rate_limit_key or "", self._client).release_stale_and_enqueue(job.id)

    def _record(self, running: RunningJob, job: Job, record: Callable[[Execution], None]) -> bool:
        """Record an outcome; repeats while Redis is unavailable. False if the job is not this horse's any more."""
        worker = self._worker
        before = dict(job.__dict__)
        wait = 0.05
        if not self._owned(running):
            self._drop(running, job)
            return False
        while True:
            job.connection = self._no_retry
            try:
                record(self._execution(running))
            except RedisError as error:
                worker.log.warning(
                    "Worker %s: the outcome of job %s cannot be recorded yet: %s", worker.name, job.id, error
                )
            # RQ's methods log and swallow a lost connection; the registry tells whether they were done.
            if not self._owned(running):
                job.connection = self._client
                self._release_slot(job)
                return True
            job.__dict__.clear()
            job.__dict__.update(before)
            time.sleep(wait)
            wait = min(wait * 2, 2)


def _current() -> ExcInfo:
    kind, error, trace = sys.exc_info()
    assert kind is not None
    assert error is not None
    return kind, error, trace


def _status(job: Job) -> str:
    return "retried" if job.get_status(refresh=False) in (JobStatus.QUEUED, JobStatus.SCHEDULED) else "failed"


def damaged(running: RunningJob) -> InvalidJob:
    """The error of a job whose record has no payload."""
    return InvalidJob(
        f"the record of job {running.job_id} in Redis is damaged: it has no data, so nothing is known to run."
    )
