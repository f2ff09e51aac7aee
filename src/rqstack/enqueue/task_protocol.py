"""The interface of a task that the producer needs. (`rqstack.tasks` imports the producer, so this is a protocol.)"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rqstack.registry.options import TaskOptions


class EnqueuedTask(Protocol):
    """A task, as `rqstack.tasks.Task` is."""

    @property
    def name(self) -> str:
        """RQ's dotted path, `module.qualname`."""

    @property
    def options(self) -> TaskOptions:
        """Its options."""

    @property
    def is_plain(self) -> bool:
        """Whether no option changes how a job of it is enqueued, apart from the queue."""

    @property
    def positional(self) -> range:
        """The numbers of positional arguments that alone are a complete call."""

    @property
    def signature(self) -> inspect.Signature:
        """The parameters of the function."""
