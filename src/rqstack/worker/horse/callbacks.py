"""Calls a job's callbacks and exception handlers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rq import Worker as RqWorker
from rq.defaults import CALLBACK_TIMEOUT
from rq.job_lifecycle import call_exception_handlers
from rq.timeouts import JobTimeoutException
from rq.utils import import_attribute

from rqstack.registry.discovery import check_callback
from rqstack.worker.horse.execute import seconds

if TYPE_CHECKING:
    from rq.job import Job

    from rqstack.worker.base import BaseWorker
    from rqstack.worker.horse.running import Extras, RunningJob


def check_names(extras: Extras) -> None:
    """Check a job's callbacks against the allow-list.

    Raises:
        UnknownTask: One is refused.
    """
    for name in (extras.on_success, extras.on_failure):
        if name:
            check_callback(name.decode(errors="replace"))


def call_back(worker: BaseWorker, name: bytes, timeout: bytes | None, kind: str, job: Job, *arguments: Any) -> None:
    """Call a job's callback under its timeout, as `rq.callbacks` does.

    Args:
        worker: The worker that ran the job.
        name: The function's dotted name.
        timeout: Seconds, as in the job's record.
        kind: success, failure or stopped, for the error message.
        job: The job.
        arguments: Passed to the callback after the job and the connection.

    Raises:
        UnknownTask: The allow-list refuses it.
        BaseException: Whatever the callback raises.
    """
    check_callback(name.decode(errors="replace"))
    callback: Callable[..., Any] = import_attribute(name.decode())
    if inspect.iscoroutinefunction(callback):
        raise TypeError(f"Coroutine {kind} callbacks are not supported")
    limit = seconds(timeout) if timeout else CALLBACK_TIMEOUT
    with worker.death_penalty_class(limit, JobTimeoutException, job_id=job.id):
        callback(job, job.connection, *arguments)


def handle_exception(worker: BaseWorker, running: RunningJob, job: Job, text: str, *exc_info: Any) -> None:
    """Log what a job raised, and call the worker's exception handlers, as `rq.Worker.handle_exception`.

    An error in a handler is logged: the job's failure is recorded in any case.

    Args:
        text: The traceback.
    """
    try:
        if type(worker).handle_exception is not RqWorker.handle_exception:
            worker.handle_exception(job, *exc_info)
            return
        # RQ's own method reads and unpickles the job once more for this line.
        arguments, named = running.arguments
        extra = {"func": running.name, "arguments": arguments, "kwargs": named}
        extra |= {"queue": running.queue, "job_id": running.job_id}
        worker.log.error(
            "Worker %s: job %s: exception raised while executing (%s)\n%s",
            *(worker.name, running.job_id, running.name, text),
            extra=extra,
        )
        call_exception_handlers(worker._exc_handlers, job, *exc_info)
    except Exception:
        worker.log.exception("Job %s: an exception handler has failed", running.job_id)
