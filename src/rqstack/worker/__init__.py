"""The worker: a supervisor process and its horses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqstack.lazy import exports

if TYPE_CHECKING:
    from rqstack.worker.worker import Worker

__all__ = ["Worker"]

if not TYPE_CHECKING:
    __getattr__ = exports(__name__, {"Worker": "worker"})
