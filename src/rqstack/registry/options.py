"""The options of a task, checked where it is declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rqstack.registry import rate as rates
from rqstack.registry.retries import Backoff, exception_types, make_retry

if TYPE_CHECKING:
    from rq import RateLimit, Retry

Unique = bool | Callable[..., str]
RateRule = Callable[..., str | None]
ConcurrencyKey = str | Callable[..., str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options of `@task(...)`.

    Args:
        queue: The queue of its jobs.
        retries: How often a failed job runs again.
        backoff: Seconds before a retry: a number, a list, "exponential" or `Exponential(…)`.
        retry_on: Only failures by these exceptions are retried. Default: all.
        timeout: Seconds a job may run; -1 for no limit. Default: `RQSTACK_JOB_TIMEOUT`.
        result_ttl: Seconds a result is kept; -1 forever. Default: `RQSTACK_RESULT_TTL`.
        failure_ttl: Seconds a failed job is kept. Default: `RQSTACK_FAILURE_TTL`.
        ttl: Seconds after which a job that has not started is dropped. Default: never.
        unique: At most one job with the same arguments waits or runs; enqueueing it again gives that job. A function
            of the arguments may say what is the same.
        rate_limit: Starts per time over all workers, such as "5/second". A job over it is put back for later.
            A function of the arguments may give the rate, or None for no limit; each rate is counted for itself.
        concurrency: How many jobs with the same key may be queued or running; the others wait (RQ's RateLimit).
        concurrency_key: The key, which tasks may share. Default: the task's name. A function of the arguments may give
            it.
        cron: Times at which the scheduler enqueues it: five fields.
        timezone: The time zone of `cron`.
        misfire_grace: Seconds by which a missed firing may still run.
        at_front: Its jobs go to the front of the queue.
        description: What the job list shows. Default: the call.
        meta: The first content of each job's meta.
        secret: Names of arguments whose values are never shown, also with `RQSTACK_SHOW_ARGUMENTS=1`.

    Raises:
        ValueError: An option is out of its range; the message names it.
    """

    queue: str = "default"
    retries: int = 0
    backoff: Backoff = None
    retry_on: tuple[type[BaseException], ...] = ()
    timeout: int | None = None
    result_ttl: int | None = None
    failure_ttl: int | None = None
    ttl: int | None = None
    unique: Unique = False
    rate_limit: rates.Rate | RateRule | None = None
    concurrency: int | None = None
    concurrency_key: ConcurrencyKey | None = None
    cron: str | None = None
    timezone: str = "UTC"
    misfire_grace: int | None = None
    at_front: bool = False
    description: str | None = None
    meta: dict[str, Any] | None = None
    secret: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.queue, str) or not self.queue.strip():
            raise ValueError(f"queue={self.queue!r}: should be the name of a queue.")
        self.make_retry()
        _at_least("timeout", self.timeout, 1, forever=True)
        _at_least("result_ttl", self.result_ttl, 0, forever=True)
        _at_least("failure_ttl", self.failure_ttl, 0, forever=True)
        _at_least("ttl", self.ttl, 1)
        _at_least("misfire_grace", self.misfire_grace, 0)
        if not (isinstance(self.unique, bool) or callable(self.unique)):
            raise ValueError(f"unique={self.unique!r}: should be True, False or a function of the arguments.")
        limit = self.concurrency
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"concurrency={limit!r}: should be a whole number, 1 or more.")
        if self.concurrency_key is not None:
            if not callable(self.concurrency_key):
                _check_concurrency_key(self.concurrency_key)
            if limit is None:
                raise ValueError(f"concurrency_key={self.concurrency_key!r}: needs concurrency=, how many may run.")
        if self.meta is not None and not isinstance(self.meta, dict):
            raise ValueError(f"meta={self.meta!r}: should be a dict.")
        if not isinstance(self.secret, tuple) or not all(isinstance(name, str) for name in self.secret):
            raise ValueError(f"secret={self.secret!r}: should be the names of arguments: secret=('card',).")
        if self.cron is not None or self.timezone != "UTC":
            from rqstack.registry import timetable

            timetable.time_zone(self.timezone)
            if self.cron is not None:
                timetable.Cron(self.cron, self.timezone)

    def job_fields(self) -> dict[str, Any]:
        """The options of one job by RQ's names, as `rq.Queue.enqueue_call` takes them."""
        return {
            "timeout": self.timeout,
            "result_ttl": self.result_ttl,
            "failure_ttl": self.failure_ttl,
            "ttl": self.ttl,
            "description": self.description,
            "at_front": self.at_front,
            "meta": dict(self.meta) if self.meta else None,
            "retry": self.make_retry() if self.retries else None,
        }

    def concurrency_limit(self, task_name: str, args: Iterable[Any], kwargs: Mapping[str, Any]) -> RateLimit | None:
        """RQ's RateLimit for one job; None without `concurrency`.

        Raises:
            ValueError: What the function gives for these arguments is no key.
        """
        if self.concurrency is None:
            return None
        from rq import RateLimit

        key = self.concurrency_key
        if callable(key):
            key = key(*args, **kwargs)
            _check_concurrency_key(key)
        return RateLimit(key or task_name, self.concurrency)

    def make_retry(self) -> Retry | None:
        """RQ's Retry for one job."""
        return make_retry(self.retries, self.backoff, at_front=self.at_front)


OPTION_NAMES = frozenset(field.name for field in fields(TaskOptions))


def make_options(
    *,
    retry_on: Iterable[type[BaseException]] | type[BaseException] | None = None,
    rate_limit: str | RateRule | None = None,
    secret: Iterable[str] = (),
    **given: Any,
) -> TaskOptions:
    """The options from what a decorator was given.

    Raises:
        ValueError: as `TaskOptions`.
    """
    types = () if retry_on is None else exception_types(retry_on)
    rate = rate_limit if rate_limit is None or callable(rate_limit) else rates.parse(rate_limit)
    names = secret if isinstance(secret, str) else tuple(secret)
    return TaskOptions(retry_on=types, rate_limit=rate, secret=names, **given)  # type: ignore[arg-type]


def _check_concurrency_key(key: object) -> None:
    # RQ appends these two to the key: one limit's keys would be another one's.
    if not isinstance(key, str) or not key or key.endswith((":allowed", ":rate_limited")):
        raise ValueError(
            f"concurrency_key={key!r}: should be text that is not empty and does not end in :allowed or :rate_limited."
        )


def _at_least(name: str, value: object, least: int, *, forever: bool = False) -> None:
    if value is None or (forever and value == -1):
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        also = ", or -1 forever" if forever else ""
        raise ValueError(f"{name}={value!r}: should be whole seconds, {least} or more{also}.")
