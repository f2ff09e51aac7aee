"""Lets rq-dashboard list what is sound in Redis, where one damaged record would end the whole page."""

from __future__ import annotations

import functools
from typing import Any

from rqstack.security.rq_records import log_once


def guard_rq_dashboard() -> None:
    """Leave out damaged jobs, results and workers. Calling it again changes nothing."""
    from redis.exceptions import RedisError
    from rq import Queue, Worker
    from rq.exceptions import NoSuchJobError
    from rq.job import Job
    from rq.registry import BaseRegistry

    def guard(owner: Any, name: str, default: Any) -> None:
        original = getattr(owner, name)
        if hasattr(original, "rqstack_guarded"):
            return
        function = getattr(original, "__func__", original)

        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            except (RedisError, NoSuchJobError):
                raise
            except Exception as error:
                log_once(f"{name} {error}", "A damaged record is left out: %.300s", error)
                return default()

        guarded.rqstack_guarded = True  # type: ignore[attr-defined]
        setattr(owner, name, classmethod(guarded) if hasattr(original, "__func__") else guarded)

    def no_such_job() -> None:
        raise NoSuchJobError("No such job")

    guard(Job, "fetch", no_such_job)
    guard(Worker, "find_by_key", lambda: None)
    guard(Worker, "get_current_job", lambda: None)
    guard(Queue, "fetch_job", lambda: None)
    guard(Job, "latest_result", lambda: None)
    guard(BaseRegistry, "get_job_ids", list)
