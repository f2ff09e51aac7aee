"""The heartbeat of scheduler processes, which health checks read."""

from __future__ import annotations

import os
import socket
import time
from typing import Any
from uuid import uuid4

from rqstack.transport import keys
from rqstack.transport.timestamps import format_seconds


class Heartbeat:
    """The record of this scheduler process.

    Args:
        ttl: Seconds after the last heartbeat at which the record expires.
        name: Default: host name, process id and a random part.
    """

    def __init__(self, ttl: float, name: str | None = None) -> None:
        self.hostname = socket.gethostname()
        self.name = name or f"{self.hostname}.{os.getpid()}.{uuid4().hex[:8]}"
        self.key = keys.SCHEDULER + self.name
        self.ttl = max(1, round(ttl))
        self.birth = format_seconds(time.time())

    def beat(self, connection: Any) -> None:
        """Write the whole record, so that it comes back by itself when it was lost; drop those of the dead."""
        record = {
            "hostname": self.hostname,
            "pid": str(os.getpid()),
            "birth": self.birth,
            "last_heartbeat": format_seconds(time.time()),
        }
        others = [key for key in connection.smembers(keys.SCHEDULERS) if key.decode() != self.key]
        alive = [bool(connection.exists(key)) for key in others]
        with connection.pipeline(transaction=True) as pipeline:
            pipeline.hset(self.key, mapping=record)
            pipeline.expire(self.key, self.ttl)
            pipeline.sadd(keys.SCHEDULERS, self.key)
            for key, there in zip(others, alive, strict=True):
                if not there:
                    pipeline.srem(keys.SCHEDULERS, key)
            pipeline.execute()

    def remove(self, connection: Any) -> None:
        """Remove the record."""
        with connection.pipeline(transaction=True) as pipeline:
            pipeline.delete(self.key)
            pipeline.srem(keys.SCHEDULERS, self.key)
            pipeline.execute()
