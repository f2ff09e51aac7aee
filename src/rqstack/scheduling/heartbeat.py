"""Heartbeats of scheduler processes, which health checks read."""

from __future__ import annotations

import os
import socket
import time
from typing import Any
from uuid import uuid4

from rqstack.scheduling.scripts import EXPIRED
from rqstack.transport import keys
from rqstack.transport.damaged import drop_wrong_types
from rqstack.transport.schema import VERSION
from rqstack.transport.timestamps import format_seconds

_LOOKED_AT = 100
"""Schedulers of the index that one heartbeat looks at."""


class Heartbeat:
    """The record of one scheduler process in Redis.

    Args:
        ttl: Seconds after the last heartbeat at which the record expires.
        name: Default: host name, process id and a random suffix.
    """

    def __init__(self, ttl: float, name: str | None = None) -> None:
        self.hostname = socket.gethostname()
        self.name = name or f"{self.hostname}.{os.getpid()}.{uuid4().hex[:8]}"
        self.key = keys.SCHEDULER + self.name
        self.ttl = max(1, round(ttl))
        self.birth = format_seconds(time.time())

    def beat(self, connection: Any) -> None:
        """Write the whole record, which restores a lost one, and remove expired schedulers from the index."""
        record = {
            "hostname": self.hostname,
            "pid": str(os.getpid()),
            "birth": self.birth,
            "last_heartbeat": format_seconds(time.time()),
            "schema": str(VERSION),
        }
        drop_wrong_types(connection, {self.key: "hash", keys.SCHEDULERS: "set"})
        with connection.pipeline(transaction=True) as pipeline:
            pipeline.hset(self.key, mapping=record)
            pipeline.expire(self.key, self.ttl)
            pipeline.sadd(keys.SCHEDULERS, self.key)
            EXPIRED(pipeline, [keys.SCHEDULERS], [keys.SCHEDULER, _LOOKED_AT])
            pipeline.execute()

    def remove(self, connection: Any) -> None:
        """Remove the record."""
        with connection.pipeline(transaction=True) as pipeline:
            pipeline.delete(self.key)
            pipeline.srem(keys.SCHEDULERS, self.key)
            pipeline.execute()
