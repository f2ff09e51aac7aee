"""`job_scheduler`: one function for immediate, delayed and recurring jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rqstack.registry.retries import Backoff, Exponential, make_retry
from rqstack.scheduling.constants import THREE_MINUTES_IN_SECONDS
from rqstack.scheduling.scheduler import Scheduler, check_delta

if TYPE_CHECKING:
    from rq.job import Job

    from rqstack.scheduling.entries import Entry
    from rqstack.scheduling.jobs import Function

SHORT_RUNNING_QUEUE = "short-running"
LONG_RUNNING_QUEUE = "long-running"


def job_scheduler(
    function: Function,
    function_args: Iterable[Any] | None = None,
    function_kwargs: Mapping[str, Any] | None = None,
    max_retries: int | None = 3,
    queue_name: str = SHORT_RUNNING_QUEUE,
    is_burst: bool = False,
    retry_backoff: bool | int = False,
    retry_intervals: int | Sequence[int] = 0,
    cron: str | None = None,
    time_delta: timedelta | None = None,
    job_timeout: int = THREE_MINUTES_IN_SECONDS,
    description: str | None = None,
    *,
    retry_jitter: bool = False,
    timezone: str = "UTC",
    misfire_grace: float | None = None,
    name: str | None = None,
) -> Job | Entry:
    """Enqueue a job: now, after `time_delta`, or repeatedly with `cron`. Invalid arguments raise here, not at run time.

    Args:
        function: A task, or its dotted path.
        max_retries: None or 0: never retry a failed job.
        is_burst: Run the queue's jobs in this process until it is empty, then return. For tests and scripts.
        retry_backoff: True waits 1, 2, 4, 8, … seconds before the retries; a number sets the first wait: 5, 10, 20, …
            At most an hour.
        retry_intervals: Seconds before each retry: one number for all, or a list whose last value repeats.
        cron: A cron expression. The scheduler process enqueues the job, with the same retries, timeout and description.
        time_delta: Delay before the job is enqueued.
        job_timeout: Seconds; -1 for no limit.
        description: Shown in job lists. Default: the call.
        retry_jitter: Draw each wait of `retry_backoff` at random from the upper half of its range.
        timezone: The time zone of `cron`.
        misfire_grace: Seconds by which a missed firing may still run. Default: an hour.
        name: The name of the cron entry. Default: the task's.

    Returns:
        The job, or with `cron` the cron entry.

    Raises:
        ValueError: cron together with time_delta, an invalid cron expression, a negative interval, retry_backoff
            together with retry_intervals, or another option out of range; the message names it.
        InvalidJob: The function is not a task, or its arguments do not match its signature or cannot be stored.
    """
    if cron is not None and time_delta is not None:
        raise ValueError(
            f"cron={cron!r} and time_delta={time_delta!r} cannot both be given: a job either repeats or runs once."
        )
    if cron is not None and is_burst:
        raise ValueError("is_burst runs jobs that are queued now, and cron queues none yet. Give one of the two.")
    if isinstance(function_args, str | bytes):
        raise ValueError(f"function_args={function_args!r}: should be a list or a tuple of arguments.")
    retries = _retries(max_retries)
    backoff = _backoff(retry_backoff, retry_intervals, retry_jitter)
    retry = make_retry(retries, backoff)
    if isinstance(job_timeout, bool) or not isinstance(job_timeout, int) or (job_timeout < 1 and job_timeout != -1):
        raise ValueError(f"job_timeout={job_timeout!r}: should be seconds, 1 or more, or -1 for no limit.")
    extra: dict[str, Any] = {} if description is None else {"description": description}
    with Scheduler(strategy="burst-no-fork" if is_burst else "fork") as scheduler:
        if cron is not None:
            return scheduler.cron(
                queue_name,
                cron,
                function,
                function_args,
                function_kwargs,
                name=name,
                timezone=timezone,
                misfire_grace=misfire_grace,
                retries=retries,
                backoff=backoff,
                timeout=job_timeout,
                **extra,
            )
        options = {"retry": retry, "job_timeout": job_timeout, **extra}
        if time_delta is not None:
            delta = check_delta(time_delta)
            job = scheduler.enqueue_in(queue_name, delta, function, function_args, function_kwargs, **options)
        else:
            job = scheduler.enqueue(queue_name, function, function_args, function_kwargs, **options)
        if is_burst:
            scheduler.work(queue_name, with_scheduler=True)
            job.refresh()
        return job


def _retries(max_retries: int | None) -> int:
    if max_retries is None:
        return 0
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
        raise ValueError(f"max_retries={max_retries!r}: should be a whole number, 0 or more, or None.")
    return max_retries


def _backoff(retry_backoff: bool | int, retry_intervals: int | Sequence[int], jitter: bool) -> Backoff:
    waits = [retry_intervals] if isinstance(retry_intervals, int | float) else retry_intervals
    if isinstance(waits, str | bytes) or not isinstance(waits, Sequence):
        raise ValueError(f"retry_intervals={retry_intervals!r}: should be seconds, or a list of seconds.")
    for wait in waits:
        if isinstance(wait, bool) or not isinstance(wait, int | float) or wait < 0:
            raise ValueError(f"retry_intervals={retry_intervals!r}: {wait!r} should be seconds, 0 or more.")
    if not retry_backoff:
        if jitter:
            raise ValueError("retry_jitter=True: needs retry_backoff.")
        return retry_intervals if isinstance(retry_intervals, int | float) else list(retry_intervals)
    if any(waits):
        raise ValueError(
            f"retry_backoff={retry_backoff!r} and retry_intervals={retry_intervals!r} cannot both be given."
        )
    if retry_backoff is not True and (not isinstance(retry_backoff, int) or retry_backoff < 1):
        raise ValueError(f"retry_backoff={retry_backoff!r}: should be True, False, or the first wait in seconds.")
    return Exponential(base=1 if retry_backoff is True else retry_backoff, jitter=jitter)
