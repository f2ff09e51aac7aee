"""rqstack: background jobs on RQ. Import the public names from here; each is loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rqstack.connections import connect
    from rqstack.discovery import autodiscover
    from rqstack.retries import Exponential, retry_with_backoff
    from rqstack.settings import Settings, get_settings
    from rqstack.tasks import Task, queue_command, task

__all__ = [
    "Exponential",
    "Settings",
    "Task",
    "autodiscover",
    "connect",
    "get_settings",
    "queue_command",
    "retry_with_backoff",
    "task",
]

_HOMES = {
    "Exponential": "rqstack.retries",
    "Settings": "rqstack.settings",
    "Task": "rqstack.tasks",
    "autodiscover": "rqstack.discovery",
    "connect": "rqstack.connections",
    "get_settings": "rqstack.settings",
    "queue_command": "rqstack.tasks",
    "retry_with_backoff": "rqstack.retries",
    "task": "rqstack.tasks",
}


def __getattr__(name: str) -> Any:
    # Lazily, because a health check that imports the package must not pay for RQ.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rqstack' has no attribute {name!r}")
