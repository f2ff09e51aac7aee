"""Makes the queues that a process enqueues to, as the settings say."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rqstack.enqueue.checked import CheckedQueue
from rqstack.enqueue.queue import Queue
from rqstack.settings import SecretStr, get_settings

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings

__all__ = ["Queue", "get_queue"]


@lru_cache(maxsize=16)
def _client(url: str, username: str | None, password: str | None) -> Redis:
    """One client, and so one pool of connections, for each Redis that a process enqueues to."""
    from rqstack.transport.client import connect

    secret = None if password is None else SecretStr(password)
    return connect(replace(get_settings(), redis_url=url, redis_username=username, redis_password=secret))


_queues: dict[str, tuple[Settings, Queue]] = {}
_MOST_QUEUES = 1000


def get_queue(name: str, connection: Redis | None = None, settings: Settings | None = None) -> Queue:
    """A queue as the settings say: their Redis, their serializer, their default timeout.

    Nothing is sent before the first job. Without a connection of the caller's, a process has one queue object of a name
    and one client of a Redis, so that a call costs less than a microsecond.

    Args:
        name: The queue's name, such as `default`.
        connection: Default: a client of `settings.redis_url`, shared by all calls of the process.
        settings: Default: `get_settings()`.
    """
    settings = settings or get_settings()
    if connection is not None:
        return _make(name, connection, settings)
    known = _queues.get(name)
    if known is not None and known[0] is settings:
        return known[1]
    password = settings.redis_password
    secret = password.get_secret_value() if password else None
    queue = _make(name, _client(settings.full_redis_url(), settings.redis_username, secret), settings)
    if len(_queues) >= _MOST_QUEUES:  # generated names must not leak memory
        _queues.clear()
    _queues[name] = (settings, queue)
    return queue


def _make(name: str, connection: Redis, settings: Settings) -> Queue:
    from rqstack.security import get_job_serializer

    kind = Queue if settings.allow_unregistered else CheckedQueue
    serializer = get_job_serializer(settings)
    return kind(name, connection=connection, default_timeout=settings.job_timeout, serializer=serializer)
