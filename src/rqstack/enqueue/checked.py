"""The queue that producers get: it rejects functions that are not registered tasks."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rqstack.enqueue.queue import Queue
from rqstack.errors import UnknownTask
from rqstack.registry.registry import registry

if TYPE_CHECKING:
    from rq.job import Job


class CheckedQueue(Queue):
    """A queue whose `enqueue`, `enqueue_at` and `enqueue_in` take registered tasks only.

    A dotted path is taken as it is: a producer need not have the task's code, and workers check it.
    """

    def enqueue(self, f: Any, *args: Any, **kwargs: Any) -> Job:
        """As `rq.Queue.enqueue`.

        Raises:
            UnknownTask: The function is no registered task.
        """
        _check(f)
        return super().enqueue(f, *args, **kwargs)

    def enqueue_at(self, datetime: datetime, f: Any, *args: Any, **kwargs: Any) -> Job:
        """As `rq.Queue.enqueue_at`.

        Raises:
            UnknownTask: The function is no registered task.
        """
        _check(f)
        job: Job = super().enqueue_at(datetime, f, *args, **kwargs)
        return job


def _check(function: Any) -> None:
    if isinstance(function, str) or getattr(function, "name", None) in registry:
        return
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    if name not in registry:
        raise UnknownTask(
            f"{name} is no task, so no worker would run it. Declare it with @task, or set RQSTACK_ALLOW_UNREGISTERED=1 "
            "for workers and producers."
        )
