"""rqstack in a Django site: put 'rqstack.contrib.django' into INSTALLED_APPS; see docs/django.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from rqstack.tasks import Task

__all__ = ["on_commit"]

P = ParamSpec("P")


def on_commit(task: Task[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Enqueue a job when the transaction of the default database commits; at once if there is none; never if it rolls
    back. The job therefore finds the rows that the transaction wrote.

    For another database: `transaction.on_commit(partial(task.delay, …), using="name")`.

    Args:
        task: A task or a command.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    from django.db import transaction

    enqueue: Callable[[], object] = lambda: task.delay(*args, **kwargs)  # noqa: E731
    transaction.on_commit(enqueue)
