"""Runs one job and its callbacks, and returns how it ended."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from redis.exceptions import RedisError
from rq.job import Job, JobStatus, Retry
from rq.timeouts import JobTimeoutException

from rqstack.errors import InvalidJob, PayloadRejected, PayloadTooLarge
from rqstack.limiting.snooze import Snooze
from rqstack.registry.discovery import resolve
from rqstack.security import count_rejected
from rqstack.security.bounded import max_payload
from rqstack.transport.raw import Lost
from rqstack.transport.timestamps import from_micros
from rqstack.worker.horse import execute
from rqstack.worker.horse.callbacks import call_back, check_names, handle_exception
from rqstack.worker.horse.execute import Executor, result_ttl, seconds
from rqstack.worker.horse.lazy_job import changes, lazy_job
from rqstack.worker.horse.rq_job import read_job
from rqstack.worker.horse.webhooks import send_webhooks
from rqstack.worker.outcome import Outcome, encode_traceback

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.horse.running import RunningJob

_OWN_FILES = frozenset((__file__, execute.__file__))


_MOST = 10**10 - 1
"""Seconds, and a number of retries, that settle.lua takes at most."""


class JobRunner:
    """Runs the jobs of a horse, one after the other. It changes nothing in Redis: settle.lua records what it returns.

    Args:
        worker: The RQ worker that the horse is.
        begin: Called when a job begins.
    """

    def __init__(self, worker: BaseWorker, begin: Callable[[RunningJob], None]) -> None:
        self._worker = worker
        self._begin = begin
        self.pid = os.getpid()
        """The process that runs jobs. Others that come back from one were forked by it."""
        self._executor = Executor(worker)

    def run(self, running: RunningJob, timeout: bytes | None, ttl_text: bytes | None) -> Outcome:
        """Run a job and its callbacks.

        Args:
            running: The job.
            timeout: Seconds it may run, as in its record.
            ttl_text: Seconds its result is kept, as in its record.
        """
        try:
            if timeout:
                running.timeout = seconds(timeout)
            self._begin(running)
            if running.data is None:
                raise InvalidJob(f"the record of job {running.job_id} in Redis is damaged: {running.damage}.")
            if isinstance(running.data, int):
                raise PayloadTooLarge(max_payload(), running.data)
            ttl = self._worker.default_result_ttl if ttl_text is None else result_ttl(running, ttl_text)
            if running.extras is not None:
                check_names(running.extras)
            try:
                value = self._execute(running, running.data)
            finally:
                if os.getpid() != self.pid:
                    self._leave(running)
            return self._succeed(running, value, ttl)
        except BaseException as error:
            # Whatever a task raises, SystemExit included, ends the job and not the horse, as in RQ.
            if isinstance(error, PayloadRejected):
                with contextlib.suppress(RedisError):
                    count_rejected(self._worker.connection, error)
            return self._fail(running, error)

    def announce(self, running: RunningJob, outcome: Outcome, recorded: str) -> None:
        """Send a job's webhooks, after its outcome is on record.

        Args:
            recorded: What settle.lua has recorded it as.
        """
        extras = running.extras
        if extras is not None and extras.webhooks and recorded in ("finished", "failed"):
            send_webhooks(running.job, extras.webhooks, extras.webhooks_signature, recorded, outcome.traceback)

    def _leave(self, running: RunningJob) -> NoReturn:
        """End a process that a task has forked: it would go on as a second horse, with the same connection."""
        self._worker.log.error("Job %s: a process that it has forked has not ended itself; it ends now", running.job_id)
        os._exit(1)

    def _execute(self, running: RunningJob, data: bytes) -> Any:
        worker = self._worker
        if worker.job_class is Job:
            return self._executor.execute(running, data)
        # A job class of the user's may have its own `perform`.
        job = running.job = self._read(running)
        if job is None:
            return None  # deleted meanwhile: settle.lua finds that too
        # RQ's job would take what was signed as a result, too.
        job._func_name, job._instance, job._args, job._kwargs = self._executor.read(job.data)
        running.name = job.func_name or ""
        resolve(running.name, job.instance)
        with worker.death_penalty_class(running.timeout, JobTimeoutException, job_id=job.id):
            return job.perform()

    def _succeed(self, running: RunningJob, value: Any, ttl: int) -> Outcome:
        outcome = self._outcome(running)
        outcome.result_ttl = ttl
        if isinstance(value, Snooze):
            outcome.ending, outcome.more = "snoozed", {"wait": value.wait}
        elif isinstance(value, Retry):
            outcome.ending = "retry"
            outcome.value = self._executor.serialize_result(value)
            intervals = [min(each, _MOST) for each in value.intervals]
            outcome.more = {"max": min(value.max, _MOST), "intervals": intervals, "at_front": value.enqueue_at_front}
        else:
            outcome.value = b"" if value is None else self._executor.serialize_result(value)
            extras = running.extras
            if extras is not None and extras.on_success:
                job = self._ended_job(running, outcome, JobStatus.FINISHED)
                job._result = value
                call_back(self._worker, extras.on_success, extras.on_success_timeout, "success", job, value)
        self._add_more(running, outcome)
        return outcome

    def _fail(self, running: RunningJob, error: BaseException) -> Outcome:
        worker, extras = self._worker, running.extras
        outcome = self._outcome(running)
        outcome.ending = "failed"
        job = self._ended_job(running, outcome, JobStatus.FAILED)
        text = _text(error)
        if extras is not None and extras.on_failure:
            try:
                exc_info = type(error), error, error.__traceback__
                call_back(worker, extras.on_failure, extras.on_failure_timeout, "failure", job, *exc_info)
            except BaseException as raised:
                # As in RQ: the callback's exception takes the place of the job's.
                worker.log.exception("Job %s: error while executing failure callback", running.job_id)
                error, text = raised, _text(raised)
        handle_exception(worker, running, job, text, type(error), error, error.__traceback__)
        outcome.value = encode_traceback(text)
        outcome.exception, outcome.traceback = type(error).__name__, text
        self._add_more(running, outcome)
        if worker.disable_default_exception_handler:
            outcome.more["unlogged"] = True
        return outcome

    def _outcome(self, running: RunningJob) -> Outcome:
        ended = time.time()
        ran = max(ended - running.started, 0.0)
        return Outcome(
            "finished", running.job_id, running.execution, running.queue, began=running.started, ended=ended, ran=ran
        )

    def _ended_job(self, running: RunningJob, outcome: Outcome, status: JobStatus) -> Any:
        """The job as RQ's callbacks get it."""
        job = running.job
        if job is None:
            worker = self._worker
            job = running.job = lazy_job(worker.job_class, running.job_id, worker.connection, worker.serializer)
        job._status = status
        job.ended_at = from_micros(int(outcome.ended * 1e6))
        return job

    def _add_more(self, running: RunningJob, outcome: Outcome) -> None:
        """Add the optional values for settle.lua."""
        # A snoozed job's function has not run, and its limit counts for RQ's own workers only (see limiting).
        if outcome.ending != "snoozed" and (fields := changes(running.job)):
            outcome.more["fields"] = [part for pair in fields.items() for part in pair]
        extras = running.extras
        if extras is not None and extras.rate_limit:
            outcome.more["limit"] = extras.rate_limit.decode(errors="replace")
        if extras is not None and extras.webhooks:
            # Read while the job exists: its webhooks are sent after it may be gone.
            with contextlib.suppress(Exception):
                self._ended_job(running, outcome, JobStatus(outcome.ending)).enqueued_at  # noqa: B018

    def _read(self, running: RunningJob) -> Job | None:
        """The job, as soon as Redis can be reached.

        A stop does not end this: the job has begun, so it has its grace, as any other. After that the supervisor kills
        the horse, and the job is put back.
        """
        while True:
            try:
                return read_job(self._worker, running.job_id, running.queue, running.timeout)
            except Lost:
                time.sleep(0.2)


def _text(error: BaseException) -> str:
    """The traceback of what a task has raised, from the task on: the worker's own frames take as long to format."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in _OWN_FILES:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
