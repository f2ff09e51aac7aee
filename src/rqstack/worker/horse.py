"""A horse: the process that runs jobs, one after the other."""

from __future__ import annotations

from typing import Any

from rq import Worker as RqWorker


class Worker(RqWorker):
    """RQ's worker, whose record comes back at the next heartbeat when it is gone (RQ lists it never again: rq#469)."""

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        if pipeline is None and self.birth_date and not self.connection.exists(self.key):
            self.register_birth()
        super().heartbeat(timeout, pipeline)
