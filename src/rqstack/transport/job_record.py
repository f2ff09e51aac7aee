"""Writes fields of a job's record, outside of what the worker's scripts write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rqstack.transport.scripts import Script

if TYPE_CHECKING:
    from redis import Redis

_SET_FIELDS = Script("transport/lua/set_fields.lua")


def set_fields(client: Redis, key: str, fields: dict[str, Any]) -> None:
    """Set fields of a job's record, if it is still there.

    Args:
        client: Its Redis.
        key: The job's key.
        fields: Values by name.

    Raises:
        redis.exceptions.RedisError: as redis-py does.
    """
    _SET_FIELDS(client, [key], [part for pair in fields.items() for part in pair])
