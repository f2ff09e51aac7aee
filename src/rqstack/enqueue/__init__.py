"""The one path by which a job enters a queue, one at a time or in bulk."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rqstack.enqueue.queue import Queue
from rqstack.settings import get_settings

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings

__all__ = ["Queue", "get_queue"]


@lru_cache(maxsize=16)
def _client(url: str, username: str | None, password: str | None) -> Redis:
    """One client, and so one pool of connections, for each Redis that a process enqueues to."""
    from rqstack.connections import connect
    from rqstack.settings import Settings

    given = {"redis_url": url, "redis_username": username, "redis_password": password}
    return connect(Settings.model_validate(get_settings().model_dump() | given))


def get_queue(name: str, connection: Redis | None = None, settings: Settings | None = None) -> Queue:
    """A queue as the settings say: their Redis, their serializer, their default timeout.

    Nothing is sent before the first job, and the client is shared, so that a call costs microseconds.

    Args:
        name: The queue's name, such as `default`.
        connection: Default: a client of `settings.redis_url`, shared by all calls of the process.
        settings: Default: `get_settings()`.
    """
    from rqstack.security import get_serializer

    settings = settings or get_settings()
    if connection is None:
        password = settings.redis_password
        connection = _client(
            settings.redis_url, settings.redis_username, password.get_secret_value() if password else None
        )
    return Queue(name, connection=connection, default_timeout=settings.job_timeout, serializer=get_serializer(settings))
