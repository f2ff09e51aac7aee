"""Retries: how often, and after how long, a failed job runs again."""

from __future__ import annotations

import functools
import inspect
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rqstack.transport.job_record import set_fields

if TYPE_CHECKING:
    from rq import Retry
    from tenacity import RetryCallState

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("rqstack.tasks")

LARGEST = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Exponential:
    """Waits that grow as true powers: base, base*factor, base*factor**2, …, never above cap.

    Args:
        base: Seconds before the first retry.
        factor: What each wait is multiplied by to get the next. At least 1.
        cap: Longest wait in seconds.
        jitter: Draw each wait at random from the upper half of its range, so that jobs that failed together do not
            come back together.

    Raises:
        ValueError: A value is out of its range.
    """

    base: float = 1
    factor: float = 2
    cap: float = 3600
    jitter: bool = False

    def __post_init__(self) -> None:
        if self.base <= 0:
            raise ValueError(f"base={self.base}: should be seconds above 0.")
        if self.factor < 1:
            raise ValueError(f"factor={self.factor}: should be at least 1.")
        if not 0 < self.cap <= LARGEST:
            raise ValueError(f"cap={self.cap}: should be seconds above 0, at most a year.")

    def wait(self, retry: int) -> float:
        """Seconds before a retry, counted from 0."""
        try:
            wait = min(self.base * self.factor**retry, self.cap)
        except OverflowError:
            wait = self.cap
        return wait * random.uniform(0.5, 1) if self.jitter else wait


Backoff = int | float | Sequence[int | float] | Exponential | bool | str | None


def intervals(retries: int, backoff: Backoff) -> list[float]:
    """Seconds before each of a number of retries.

    Args:
        retries: How many.
        backoff: Seconds; a list of seconds, the last one repeated; `Exponential(…)`; True or "exponential" for its
            defaults; None or False for no wait.

    Raises:
        ValueError: A wait is negative, longer than a year, or no number.
    """
    if backoff is None or backoff is False:
        return [0] * retries
    if backoff is True or backoff == "exponential":
        backoff = Exponential()
    if isinstance(backoff, Exponential):
        return [backoff.wait(retry) for retry in range(retries)]
    if isinstance(backoff, int | float):
        return [_seconds(backoff)] * retries
    if isinstance(backoff, str) or not isinstance(backoff, Sequence):
        raise ValueError(f"backoff={backoff!r}: should be seconds, a list of seconds, 'exponential' or Exponential(…).")
    waits = [_seconds(wait) for wait in backoff]
    if not waits:
        raise ValueError("backoff=[]: should have at least one interval.")
    return (waits + waits[-1:] * retries)[:retries]


def make_retry(retries: int, backoff: Backoff = None, *, at_front: bool = False) -> Retry | None:
    """RQ's Retry for one job; jitter differs at each call. None for no retries.

    Args:
        retries: How often the job may run again after a failure.
        backoff: As `intervals`.
        at_front: Put it at the front of its queue when it comes back without a wait.

    Raises:
        ValueError: As `intervals`, or retries is negative.
    """
    check_retries(retries)
    waits = [round(wait) for wait in intervals(max(retries, 1), backoff)]
    if not retries:
        return None
    from rq import Retry

    # RQ looks an interval up from the end of its list, so one of another length would be read at the wrong place: it
    # is exactly as long as the number of retries, or one value for all.
    return Retry(max=retries, interval=waits[:1] if len(set(waits)) == 1 else waits, enqueue_at_front=at_front)


def check_retries(retries: object) -> None:
    """Check a number of retries.

    Raises:
        ValueError: It is no whole number of 0 to 1000.
    """
    if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= 1000:
        raise ValueError(f"retries={retries!r}: should be a whole number from 0 to 1000.")


def exception_types(given: Iterable[type[BaseException]] | type[BaseException]) -> tuple[type[BaseException], ...]:
    """One exception class or several, checked.

    Raises:
        ValueError: Something else is among them, or there is none.
    """
    types = (given,) if isinstance(given, type) else tuple(given)
    for entry in types:
        if not (isinstance(entry, type) and issubclass(entry, BaseException)):
            raise ValueError(f"retry_on={entry!r}: should be exception classes.")
    if not types:
        raise ValueError("retry_on=(): should have at least one exception class; retries=0 is how not to retry.")
    return types


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST:
        raise ValueError(f"backoff has {value!r}: should be seconds from 0 to a year.")
    return value


def retrying_only(func: Callable[..., Any], types: tuple[type[BaseException], ...]) -> Callable[..., Any]:
    """The function, so that its job is not retried after other exceptions than these.

    RQ retries while `retries_left` of the job is above 0. After the function has raised, it looks at the current job or
    at one that it reads from Redis, so both are set.
    """

    def forbid(error: BaseException) -> None:
        if isinstance(error, types):
            return
        from redis.exceptions import RedisError
        from rq import get_current_job

        job = get_current_job()
        if job is None or not job.retries_left:
            return
        job.retries_left = 0
        try:
            set_fields(job.connection, job.key, {"retries_left": 0})
        except RedisError:
            log.warning("Job %s may be retried after %s: Redis is unavailable", job.id, type(error).__name__)

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return await func(*args, **kwargs)
            except BaseException as error:
                forbid(error)
                raise
    else:

        @functools.wraps(func)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return func(*args, **kwargs)
            except BaseException as error:
                forbid(error)
                raise

    return guarded


def retry_with_backoff(
    *,
    retries: int = 5,
    backoff: Backoff = True,
    retry_on: Iterable[type[BaseException]] | type[BaseException] = Exception,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Call a function again, in this process, when it raises: for a short hiccup of another system.

    Coroutine functions wait without blocking their loop.

    Args:
        retries: How often to call it again. 0 or more.
        backoff: Seconds before each, as for a task's `backoff`. Default: exponential from 1 s.
        retry_on: The exceptions that are worth it. Others, and the last one, are raised as they are.

    Raises:
        ValueError: An argument is out of its range.
    """
    check_retries(retries)
    types = exception_types(retry_on)
    waits = intervals(max(retries, 1), backoff)
    policy = Exponential() if backoff is True or backoff == "exponential" else backoff

    def wait(state: RetryCallState) -> float:
        # Exponential waits are drawn at each call, for their jitter. It is asked once too often, after the last call.
        retry = state.attempt_number - 1
        return policy.wait(retry) if isinstance(policy, Exponential) else waits[min(retry, len(waits) - 1)]

    def decorate(func: Callable[P, R]) -> Callable[P, R]:
        from tenacity import retry, retry_if_exception_type, stop_after_attempt

        return retry(
            stop=stop_after_attempt(retries + 1), wait=wait, retry=retry_if_exception_type(types), reraise=True
        )(func)

    return decorate
