"""Redis's protocol: packs commands, and maps error replies to redis-py's exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import hiredis

_pack: Callable[[tuple[Any, ...]], bytes] = cast(Any, hiredis).pack_command


def pack(*command: str | bytes | int) -> bytes:
    """A command in Redis's protocol.

    Where a signal's exception may come, such as a job's timeout, numbers have to be text already: hiredis ends the
    process if one comes while it writes a number.

    Raises:
        redis.exceptions.DataError: A part is neither text, bytes nor a number.
    """
    try:
        return _pack(command)
    except TypeError as error:
        from redis.exceptions import DataError

        raise DataError(str(error)) from error
