"""Where QUEUE_BACKEND is set, task calls go to that backend instead of RQ's queues."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from rqstack.settings import get_settings

if TYPE_CHECKING:
    from rqstack.enqueue.task_protocol import EnqueuedTask
    from rqstack.registry.options import TaskOptions

# By name, as the backend itself is: this package is below the one that implements it.
IMPLEMENTATION = ("rqstack.backends.publisher", "BackendPublisher")


class Publisher(Protocol):
    """Takes task calls in place of RQ."""

    def publish(
        self,
        task: EnqueuedTask,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: TaskOptions,
        given: Mapping[str, Any],
    ) -> Any:
        """Send one call.

        Args:
            task: The task.
            args: Positional arguments, already checked against its signature.
            kwargs: Named arguments.
            options: The task's options, with those of this call in their place.
            given: What concerns this call alone, such as `queue` and `at`.

        Returns:
            Something with an `id`, as a job has.
        """


_publisher: Publisher | None = None


def get_publisher() -> Publisher | None:
    """Where calls go: None for RQ, which is the default.

    Raises:
        BackendError: QUEUE_BACKEND cannot be loaded.
    """
    global _publisher
    if get_settings().queue_backend is None:
        return None
    if _publisher is None:
        module, name = IMPLEMENTATION
        _publisher = getattr(import_module(module), name)()
    return _publisher
