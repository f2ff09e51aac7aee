"""Sends prepared commands over a connection of a redis-py client's pool.

Why not the client's own methods: `Redis.execute_command` costs more than the rest of an enqueue, and it sends a command
again after a lost reply without knowing whether the first one was done, which would enqueue a job twice.

Connections come from the client's pool and keep what it gives: thread and fork safety, TLS, passwords, Sentinel,
health checks, the client's own number of retries and its backoff, and redis-py's exceptions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

import hiredis
from redis.exceptions import DataError, ExecAbortError, NoScriptError, ResponseError

if TYPE_CHECKING:
    from redis import Redis

Command = Sequence[str | bytes | int | float]
_SEND_BYTES = 1 << 18
_pack: Callable[[tuple[Any, ...]], bytes] = cast(Any, hiredis).pack_command


def pack(command: Command) -> bytes:
    """A command in Redis's protocol.

    Raises:
        redis.exceptions.DataError: A part is not text, bytes or a number.
    """
    try:
        return _pack(tuple(command))
    except TypeError as error:
        raise DataError(str(error)) from error


def _send(client: Redis, attempt: Callable[[Any, bool], Any]) -> Any:
    """Run `attempt(connection, again)` until it succeeds or the client's retries are used up."""
    pool = client.connection_pool
    connection: Any = pool.get_connection()
    again = False

    def run() -> Any:
        nonlocal again
        was, again = again, True
        return attempt(connection, was)

    try:
        return connection.retry.call_with_retry(run, lambda _: connection.disconnect())
    finally:
        pool.release(connection)


class Script:
    """A Lua script beside a module, called by its hash, in one round trip.

    Args:
        package: The package it lies in.
        name: Its file name.
    """

    def __init__(self, package: str, name: str) -> None:
        self.source = files(package).joinpath(name).read_text()
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, client: Redis, first: Command, again: Callable[[], Command]) -> Any:
        """Call the script; it may be sent more than once, but then it is told so.

        Args:
            client: The Redis.
            first: The number of keys, the keys and the arguments of the first try.
            again: Makes those of every other try: the first may have been done, its reply lost.

        Raises:
            redis.exceptions.RedisError: As redis-py does, after as many tries as the client was set to.
        """

        def attempt(connection: Any, is_again: bool) -> Any:
            connection.send_packed_command((pack(("EVALSHA", self.sha, *(again() if is_again else first))),))
            try:
                return connection.read_response()
            except NoScriptError:
                # A Redis that has restarted: what was sent before its restart may have been done.
                connection.send_packed_command((pack(("EVAL", self.source, *again())),))
                return connection.read_response()

        return _send(client, attempt)


def transact(client: Redis, commands: Sequence[bytes], is_done: Callable[[Any], bool]) -> None:
    """Send packed commands as one MULTI transaction, all or nothing, in one round trip.

    Args:
        client: The Redis.
        commands: Each from `pack`.
        is_done: Asked before a further try, with the connection: was the first one done, its reply lost?

    Raises:
        redis.exceptions.RedisError: As redis-py does, after as many tries as the client was set to.
    """
    whole = b"".join((pack(("MULTI",)), *commands, pack(("EXEC",))))
    view = memoryview(whole)
    parts = [view[at : at + _SEND_BYTES] for at in range(0, len(whole), _SEND_BYTES)]

    def attempt(connection: Any, is_again: bool) -> None:
        if is_again and is_done(connection):
            return
        connection.send_packed_command(parts)
        refused: ResponseError | None = None
        for _ in range(len(commands) + 1):
            try:
                connection.read_response()
            except ResponseError as error:
                refused = refused or error
        try:
            replies = connection.read_response()
        except ExecAbortError as error:
            raise refused or error from None
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply

    _send(client, attempt)
