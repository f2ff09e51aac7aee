"""rqstack: background jobs on RQ. Import the public names from here; each is loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqstack.lazy import exports

if TYPE_CHECKING:
    from rqstack.registry.discovery import autodiscover
    from rqstack.registry.retries import Exponential, retry_with_backoff
    from rqstack.settings import Settings, get_settings
    from rqstack.tasks import Task, queue_command, task
    from rqstack.transport.client import connect

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

if not TYPE_CHECKING:
    __getattr__ = exports(
        __name__,
        {
            "Exponential": "registry.retries",
            "Settings": "settings.fields",
            "Task": "tasks",
            "autodiscover": "registry.discovery",
            "connect": "transport.client",
            "get_settings": "settings.fields",
            "queue_command": "tasks",
            "retry_with_backoff": "registry.retries",
            "task": "tasks",
        },
    )
