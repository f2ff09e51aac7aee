"""Lua scripts: loaded from the package's `lua/` folders, called by their hash.

A script runs alone. What it has written stays if it fails, so none may fail after its first write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rqstack.transport import keys

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline
    from redis.commands.core import Script as RedisScript

_PREFIX = "<prefix>"

_GUARD = """\
-- While the slot of all keys moves to another node of a cluster, access to a key that is not there is an error. This
-- key is never there, so the script fails here, before its first write, until the slot has moved.
redis.call('EXISTS', '<prefix>stack:never')
"""


class Function:
    """Files of a script that become the body of one Lua function.

    Redis runs a script's text for each call, so each function in it is made for each call. Those within a function are
    made only when that is called.

    Args:
        head: The function's name and its parameters.
        paths: The files.
    """

    def __init__(self, head: str, *paths: str) -> None:
        self.text = f"local function {head}\n{_read(paths)}\nend"


class Script:
    """A Lua script of this package, with the prefix of Redis keys filled in.

    Args:
        parts: Its files below the package, such as `worker/lua/claim.lua`, and functions; several are joined.
        tail: What is appended.
    """

    def __init__(self, *parts: str | Function, tail: str = "") -> None:
        texts = [part.text if isinstance(part, Function) else _read([part]) for part in parts]
        text = "\n".join([*texts, tail] if tail else texts)
        if keys.HASH_TAG:
            text = f"{_GUARD}\n{text}"
        self.source = text.replace(_PREFIX, keys.PREFIX).encode()
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()
        self._script: RedisScript | None = None

    def __call__(self, client: Redis | Pipeline, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run it through a redis-py client, or queue it on a pipeline.

        Args:
            client: The client or pipeline.
            keys: As the script's head says.
            args: As the script's head says.

        Raises:
            redis.exceptions.RedisError: as redis-py does.
        """
        if self._script is None:
            from redis.commands.core import Script as RedisScript

            self._script = RedisScript(client, self.source)
        return self._script(keys=list(keys), args=list(args), client=client)

    def run(self, client: Redis, call: Sequence[Any]) -> Any:
        """Run it through a client's `execute_command`, in one round trip.

        Args:
            client: The client, of any class.
            call: The number of keys, the keys and the arguments.

        Raises:
            redis.exceptions.RedisError: as redis-py does.
        """
        from redis.exceptions import NoScriptError

        try:
            return client.execute_command("EVALSHA", self.sha, *call)
        except NoScriptError:
            return client.execute_command("EVAL", self.source, *call)


def _read(paths: Sequence[str]) -> str:
    return "\n".join(files("rqstack").joinpath(path).read_text() for path in paths)
