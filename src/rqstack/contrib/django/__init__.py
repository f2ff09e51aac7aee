"""rqstack in a Django site: add 'rqstack.contrib.django' to INSTALLED_APPS; see docs/django.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from rqstack.tasks import Task

__all__ = ["on_commit"]

P = ParamSpec("P")


def on_commit(task: Task[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Enqueue a job when the transaction of the default database commits, so that the job finds the rows it wrote.

    Without a transaction the job is enqueued at once; after a rollback it is not enqueued. For another database, use
    `transaction.on_commit(partial(task.delay, …), using="name")`.
    """
    from django.db import transaction

    enqueue: Callable[[], object] = lambda: task.delay(*args, **kwargs)  # noqa: E731
    transaction.on_commit(enqueue)
