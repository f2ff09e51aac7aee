"""Limits how often a task starts, across all workers: a job over the limit is snoozed and waits in no horse.

The `limits` library counts the starts in a moving window in Redis: no window of that length has more than the rate
allows. A job that may not start reserves a turn (`reserve_turn.lua`): a time of its own, one interval after the job
before it, so that jobs come back one by one and in order rather than all at once. The turn only says when to try again;
whether a job may start is decided by the window each time."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rqstack.registry.rate import Rate, parse
from rqstack.transport import keys
from rqstack.transport.scripts import Script

if TYPE_CHECKING:
    from rqstack.limiting.window import MovingWindow

log = logging.getLogger("rqstack.limiting")

_RESERVE_TURN = Script("transport/lua/write.lua", "limiting/lua/reserve_turn.lua")
AWAY = 1.0
"""Seconds after which a job tries again if Redis was unavailable."""
KEPT = 60.0
"""Seconds for which a missed turn still keeps new jobs behind it."""

_SLACK = 0.005
_held: ContextVar[bool] = ContextVar("rqstack_rates_held", default=True)


def acquire(connection: Redis, name: str, rate: Rate, job_id: str) -> float:
    """Take one start of a task, if its rate allows one now.

    Args:
        connection: Redis.
        name: The task.
        rate: Its limit.
        job_id: The job that wants to start.

    Returns:
        0 if it may start now; else seconds after which it should ask again. Its turn is reserved.
    """
    turns = f"{keys.RATE_LIMIT}:line:{name}"
    interval = rate.seconds / rate.count
    if (wait := float(_RESERVE_TURN(connection, [turns], ["enter", job_id, interval, KEPT]))) > 0:
        return wait
    free_in = _window(connection).enter(name, rate)
    if free_in == 0:
        connection.zrem(turns, job_id)
        return 0
    return float(_RESERVE_TURN(connection, [turns], ["wait", job_id, interval, KEPT, free_in + _SLACK]))


def limited(func: Callable[..., Any], name: str, rule: Rate | Callable[..., str | None]) -> Callable[..., Any]:
    """The function as a worker calls it: when its job is over the rate it returns `Snooze`, and the function is not
    called. Outside of a job it is just called.

    Args:
        func: The task's function.
        name: The task.
        rule: Its limit, or a function of its arguments that gives it.
    """

    def snoozed(args: Any, kwargs: Any) -> Any:
        from rq import get_current_job

        if not _held.get() or (job := get_current_job()) is None:
            return None
        rate = rule if isinstance(rule, Rate) else _rate(rule(*args, **kwargs))
        if rate is None:
            return None
        try:
            wait = acquire(job.connection, name, rate, job.id)
        except (RedisConnectionError, RedisTimeoutError) as error:
            # Not the task's failure. The worker waits for Redis to record what became of the job, as for any other.
            log.warning("%s: its rate limit is unavailable (%s); job %s is snoozed", name, error, job.id)
            wait = AWAY
        if wait == 0:
            return None
        from rqstack.limiting.snooze import Snooze

        # RQ counts what a job returns to be run again; the limit must not use up what the task itself may return.
        job.number_of_retries = (job.number_of_retries or 0) - 1
        return Snooze(wait)

    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def body(*args: Any, **kwargs: Any) -> Any:
            return snoozed(args, kwargs) or await func(*args, **kwargs)
    else:

        @functools.wraps(func)
        def body(*args: Any, **kwargs: Any) -> Any:
            return snoozed(args, kwargs) or func(*args, **kwargs)

    return body


@contextmanager
def unlimited() -> Iterator[None]:
    """Within it no rate is held: for tests, which should not wait."""
    token = _held.set(False)
    try:
        yield
    finally:
        _held.reset(token)


@lru_cache(maxsize=256)
def _rate(text: str | None) -> Rate | None:
    return None if text is None else parse(text)


@lru_cache(maxsize=256)
def _window(connection: Redis) -> MovingWindow:
    from rqstack.limiting.window import MovingWindow

    return MovingWindow(connection, keys.RATE_LIMIT)
