"""Listens for RQ's commands to workers (stop-job, kill-horse, shutdown): many workers, no thread."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from rqstack.transport.damaged import LogOnce, parse_json

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker

log = logging.getLogger("rq.worker")

_AT_ONCE = 100
"""Messages that are read at once: a flood of them must not keep the supervisor from its other work."""

_LONGEST = 10_000
"""Bytes that a command may have."""


class CommandListener:
    """One subscription for all workers of a supervisor.

    Args:
        workers: The workers; the first one's connection is used.
    """

    def __init__(self, workers: Sequence[BaseWorker]) -> None:
        self._workers = {worker.pubsub_channel_name: worker for worker in workers}
        self._client = workers[0].connection
        self._pubsub: Any = None
        self._damage = LogOnce(log)

    @property
    def socket(self) -> Any:
        """The socket, to be polled; None while there is no connection."""
        return getattr(getattr(self._pubsub, "connection", None), "_sock", None)

    def subscribe(self) -> None:
        """Subscribe. If Redis is unavailable, `read` tries again."""
        try:
            self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)
            self._pubsub.subscribe(*self._workers)
        except RedisError as error:
            log.debug("No commands while Redis is unavailable: %s", error)
            self.close()

    def read(self) -> list[tuple[BaseWorker, dict[str, Any]]]:
        """The commands since the last call: the worker, and RQ's payload. Subscribes again after a lost connection."""
        found: list[tuple[BaseWorker, dict[str, Any]]] = []
        if self._pubsub is None:
            self.subscribe()
        try:
            for _ in range(_AT_ONCE):
                if self._pubsub is None or (message := self._pubsub.get_message(timeout=0)) is None:
                    break
                if message.get("type") == "message":
                    worker = self._workers[message["channel"].decode()]
                    if (payload := self._parse(worker, message["data"])) is not None:
                        found.append((worker, payload))
        except RedisError as error:
            log.debug("No commands while Redis is unavailable: %s", error)
            self.close()
        return found

    def _parse(self, worker: BaseWorker, data: bytes) -> dict[str, Any] | None:
        """RQ's payload; None if the message is no command, which is logged."""
        try:
            payload = parse_json(data) if len(data) <= _LONGEST else None
        except ValueError:
            payload = None
        if isinstance(payload, dict) and isinstance(payload.get("command"), str):
            return payload
        self._damage.error("command", "Worker %s: an invalid command is ignored: %r", worker.name, data[:200])
        return None

    def close(self) -> None:
        """Disconnect."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with contextlib.suppress(RedisError, OSError):
                pubsub.close()
