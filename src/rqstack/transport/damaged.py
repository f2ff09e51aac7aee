"""Checks what is read from Redis: whoever can write there can write anything.

A record that is damaged is dropped and logged, and ends no process. Scripts do the same with keys of the wrong type:
see `lua/write.lua`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rqstack.processes.printable import printable
from rqstack.transport.scripts import Script

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("rqstack.redis")

_DROP = Script("transport/lua/drop_wrong_types.lua")

LONGEST_NAME = 1000
"""Bytes that an id or a name may have; `lua/is_name.lua` has the same limit."""

_LONGEST_MESSAGE = 1000

LONGEST_JSON = 1 << 20
"""Bytes that a JSON text may have."""


class LogOnce:
    """Logs each error about damaged data once, however often it is met.

    Args:
        logger: Where to.
        most: Errors that are remembered.
    """

    def __init__(self, logger: logging.Logger, most: int = 1000) -> None:
        self._logger = logger
        self._most = most
        self._logged: dict[str, str] = {}

    def error(self, key: str, message: str, *arguments: object) -> None:
        """Log an error, unless it was the last one with this key."""
        text = printable((message % arguments if arguments else message)[:_LONGEST_MESSAGE])
        if self._logged.get(key) != text:
            if len(self._logged) >= self._most:
                self._logged.clear()
            self._logged[key] = text
            self._logger.error("%s", text)

    def forget(self, key: str) -> None:
        """What the key stands for is sound again."""
        self._logged.pop(key, None)


def name_of(raw: bytes | str) -> str | None:
    """An id or a name as text; None if it is too long or not UTF-8."""
    if len(raw) > LONGEST_NAME:
        return None
    try:
        return raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError:
        return None


def parse_json(raw: bytes | str) -> Any:
    """Parse a JSON text that anybody may have written.

    Raises:
        ValueError: It is too long, nested too deeply, or not JSON.
    """
    if len(raw) > LONGEST_JSON:
        raise ValueError(f"{len(raw)} bytes of JSON are too many")
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def parse_names(raw: bytes | str | None, most: int = 10_000) -> list[str]:
    """Parse a JSON list of names.

    Args:
        most: How many there may be.

    Raises:
        ValueError: It is something else.
    """
    names = parse_json(raw) if raw else None
    if not isinstance(names, list) or len(names) > most:
        raise ValueError("it has no list of names")
    for name in names:
        if not isinstance(name, str) or len(name) > LONGEST_NAME or any("\ud800" <= char <= "\udfff" for char in name):
            raise ValueError("it has an invalid name")
    return names


def drop_wrong_types(client: Redis, types: Mapping[str, str]) -> None:
    """Drop keys of the wrong type, and log them.

    Args:
        types: The type of each key: string, list, set, zset, hash or stream.

    Raises:
        redis.exceptions.RedisError: as redis-py does.
    """
    for key in _DROP.run(client, (len(types), *types, *types.values())):
        log.error("%s is of the wrong type in Redis, and is dropped.", key.decode(errors="replace"))
