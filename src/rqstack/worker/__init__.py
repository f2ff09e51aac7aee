"""The worker: a supervisor process and its horses, in RQ's own keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rqstack.worker.worker import Worker

__all__ = ["Worker"]


def __getattr__(name: str) -> Any:
    # Lazily: what reads a key's name here must not pay for RQ.
    if name == "Worker":
        from rqstack.worker.worker import Worker

        return Worker
    raise AttributeError(f"module 'rqstack.worker' has no attribute {name!r}")
