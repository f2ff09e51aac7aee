"""Sends prepared commands over connections of a redis-py client.

Why not the client's own methods: `Redis.execute_command` costs more than the rest of an enqueue, and it sends a command
again after a lost reply without knowing whether the first one was done, which would enqueue a job twice.

Connections are made as the client's pool makes them, and keep what it gives: TLS, passwords, Sentinel, health checks,
the client's own number of retries with its backoff, and redis-py's exceptions. Taking one from redis-py's pool and
giving it back is a tenth of an enqueue, so idle ones are kept here, beside the pool.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis import ConnectionPool
from redis.exceptions import (
    ConnectionError,
    ExecAbortError,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from rqstack.transport.protocol import pack

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.transport.scripts import Script

Command = Sequence[str | bytes]
_SEND_BYTES = 1 << 18
_FRESH = 1.0  # seconds of idleness after which a connection is looked at before its next use
_KEPT = 64


class PooledSender:
    """Connections of one client, each lent to one call at a time: from threads, signal handlers and greenlets alike.

    Args:
        client: The client. Pools other than redis-py's plain one, which may limit or choose, lend their own.
    """

    def __init__(self, client: Redis) -> None:
        self.pool = client.connection_pool
        self.is_plain = type(self.pool) is ConnectionPool and getattr(self.pool, "cache", None) is None
        self.idle: deque[tuple[Any, int, float]] = deque()

    def send(self, attempt: Callable[[Any, bool], Any]) -> Any:
        """Run `attempt(connection, again)`, until it succeeds or the client's retries are used up.

        Raises:
            redis.exceptions.RedisError: as redis-py does.
        """
        connection = self._take() if self.is_plain else self.pool.get_connection()
        is_in_step = False
        try:
            try:
                reply = attempt(connection, False)
            except RedisError as error:
                reply = _retry(connection, attempt, error)
            is_in_step = True
            return reply
        finally:
            if not is_in_step:  # whatever happened, a job's timeout included: no later call may read its reply
                connection.disconnect()
            if not self.is_plain:
                self.pool.release(connection)
            elif is_in_step and len(self.idle) < _KEPT:
                self.idle.append((connection, os.getpid(), time.monotonic()))

    def run(self, script: Script, first: Command, again: Callable[[], Command], meanwhile: Callable[[], object]) -> Any:
        """Run a script by its hash, in one round trip; it may be sent more than once, but then it is told so.

        Args:
            script: The script.
            first: The number of keys, the keys and the arguments of the first try.
            again: Makes those of every other try: the first may have been done, its reply lost.
            meanwhile: Called, in every try, once the command is sent: work that need not wait for the reply.

        Raises:
            redis.exceptions.RedisError: as `send`.
        """

        def attempt(connection: Any, is_again: bool) -> Any:
            connection.send_packed_command((pack("EVALSHA", script.sha, *(again() if is_again else first)),))
            meanwhile()
            try:
                return connection.read_response()
            except NoScriptError:
                # A Redis that has restarted: what was sent before its restart may have been done.
                connection.send_packed_command((pack("EVAL", script.source, *again()),))
                return connection.read_response()

        return self.send(attempt)

    def transact(self, commands: Sequence[bytes], is_done: Callable[[Any], bool]) -> None:
        """Send packed commands as one MULTI transaction, all or nothing, in one round trip.

        Args:
            commands: Each from `pack`.
            is_done: Asked before a further try, with the connection: was the first one done, its reply lost?

        Raises:
            redis.exceptions.RedisError: as `send`.
        """

        def attempt(connection: Any, is_again: bool) -> None:
            if not (is_again and is_done(connection)):
                _transaction(connection, commands)

        self.send(attempt)

    def run_all(self, script: Script, calls: Callable[[bool], Sequence[Command]]) -> list[Any]:
        """Run a script several times in one MULTI transaction, in one round trip.

        Args:
            script: The script.
            calls: Makes the number of keys, the keys and the arguments of each run, of the first try (False) and of
                every other one (True): the first may have been done, its reply lost.

        Returns:
            The replies.

        Raises:
            redis.exceptions.RedisError: as `send`.
        """

        def attempt(connection: Any, is_again: bool) -> list[Any]:
            first, *others = calls(is_again)
            # EVAL, since within a transaction it is too late to find that Redis has forgotten the script.
            commands = [pack("EVAL", script.source, *first)]
            commands += (pack("EVALSHA", script.sha, *other) for other in others)
            return _transaction(connection, commands)

        replies: list[Any] = self.send(attempt)
        return replies

    def close(self) -> None:
        """Close the connections that are kept."""
        while self.idle:
            self.idle.pop()[0].disconnect()

    def _take(self) -> Any:
        while self.idle:
            try:
                connection, process, used = self.idle.pop()
            except IndexError:  # another thread was quicker
                break
            if process != os.getpid():  # of the parent, before a fork
                continue
            if time.monotonic() - used > _FRESH:
                _check(connection)
            return connection
        return self.pool.connection_class(**self.pool.connection_kwargs)


def _transaction(connection: Any, commands: Sequence[bytes]) -> list[Any]:
    packed = b"".join((pack("MULTI"), *commands, pack("EXEC")))
    view = memoryview(packed)
    connection.send_packed_command([view[at : at + _SEND_BYTES] for at in range(0, len(packed), _SEND_BYTES)])
    refused: ResponseError | None = None
    for _ in range(len(commands) + 1):
        try:
            connection.read_response()
        except ResponseError as error:
            refused = refused or error
    try:
        replies: list[Any] = connection.read_response()
    except ExecAbortError as error:
        raise refused or error from None
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


def _retry(connection: Any, attempt: Callable[[Any, bool], Any], error: RedisError) -> Any:
    """Try again as the client's policy says, with the error as the first of its tries."""
    first = [error]

    def run() -> Any:
        if first:
            raise first.pop()
        return attempt(connection, True)

    return connection.retry.call_with_retry(run, lambda _: connection.disconnect())


def _check(connection: Any) -> None:
    """Close a connection that its server has closed; the next command opens it again."""
    try:
        usable = not connection.can_read()
    except (ConnectionError, TimeoutError, OSError):
        usable = False
    if not usable:
        connection.disconnect()
