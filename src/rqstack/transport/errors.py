"""Classifies errors of Redis."""

from __future__ import annotations

import re

from redis.exceptions import ResponseError

_CODE = re.compile(r": -([A-Z]{2,}) ")


def is_damage(error: ResponseError) -> bool:
    """Whether an error is about the data that a command met, which stays so, and not about the server's state.

    The server's state (OOM, READONLY, MISCONF, NOREPLICAS and the like) is a class of redis-py or a code in capitals;
    Redis 6.2 has that code within a sentence about the script.
    """
    code = str(error).partition(" ")[0]
    if type(error) is not ResponseError or (code.isupper() and code != "WRONGTYPE"):
        return False
    within = _CODE.search(str(error))
    return within is None or within[1] in ("ERR", "WRONGTYPE")


def is_wrong_type(error: object) -> bool:
    """Whether a reply is the error that the key of a command is of another type."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
