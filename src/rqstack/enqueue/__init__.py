"""Enqueues task calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqstack.lazy import exports

if TYPE_CHECKING:
    from rqstack.enqueue.queue import Queue
    from rqstack.enqueue.queues import get_queue

__all__ = ["Queue", "get_queue"]

if not TYPE_CHECKING:
    # On first use: a producer imports RQ with its first job.
    __getattr__ = exports(__name__, {"Queue": "queue", "get_queue": "queues"})
