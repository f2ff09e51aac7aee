"""Sends task calls to the configured message backend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rqstack.backends import open_queue
from rqstack.backends.base import BaseQueue
from rqstack.backends.messages import Message, encode
from rqstack.errors import InvalidJob
from rqstack.settings import get_settings

if TYPE_CHECKING:
    from rqstack.enqueue.task_protocol import EnqueuedTask
    from rqstack.registry.options import TaskOptions

RQ_ONLY_OPTIONS = ("unique", "rate_limit", "concurrency", "ttl", "at_front")
"""Task options that only RQ supports. Calls that use them, or any per-call option but `queue`, are rejected."""


class BackendPublisher:
    """Writes task calls to the backend. Keeps each queue open for the life of the process."""

    def __init__(self) -> None:
        self._queues: dict[str, BaseQueue] = {}
        self._pid = os.getpid()

    def publish(
        self,
        task: EnqueuedTask,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        given: Mapping[str, Any],
    ) -> Message:
        """Write one call to its queue. Arguments as `Publisher.publish`.

        Raises:
            InvalidJob: An argument cannot be stored, or an option is supported by RQ only.
            BackendError: The backend cannot be loaded or reached. Nothing was written.
        """
        settings = get_settings()
        needs_rq = sorted(set(given) - {"queue"}) + [name for name in RQ_ONLY_OPTIONS if getattr(options, name)]
        if needs_rq:
            raise InvalidJob(
                f"{task.name}: {needs_rq[0]} needs RQ, and QUEUE_BACKEND sends calls to {settings.queue_backend}. "
                "Leave it out, or unset QUEUE_BACKEND."
            )
        message = Message(
            task.name, args, dict(kwargs), timeout=options.timeout or settings.job_timeout, retries=options.retries
        )
        data = encode(message, settings)
        self._queue(given.get("queue") or options.queue).write(data)
        return message

    def _queue(self, name: str) -> BaseQueue:
        if self._pid != os.getpid():
            # The process has forked: a connection must not be shared with the parent.
            self._queues, self._pid = {}, os.getpid()
        if name not in self._queues:
            self._queues[name] = open_queue(name, get_settings())
        return self._queues[name]
