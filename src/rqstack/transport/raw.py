"""One connection to Redis with nothing between the caller and the protocol."""

from __future__ import annotations

import builtins
import contextlib
import encodings.idna  # noqa: F401 - what looking up a host imports: once, before the fork, and not in each horse
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import hiredis
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from rqstack.transport.protocol import pack

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.transport.scripts import Script


_ERRORS: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
}

Lost = (ConnectionError, TimeoutError)
"""Raised when the connection broke: the call may have been done or not."""

_LEAVING = (*Lost, ReadOnlyError)
"""Replies after which the connection is closed. READONLY says that Redis is a replica: if it was the primary until a
failover, the next connection is to the one that is now."""


def _reply_error(text: str) -> RedisError:
    """The exception that redis-py has for an error reply."""
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    return kind(rest) if kind is not None else ResponseError(text)


class RawConnection:
    """A connection whose commands are packed and whose replies are read without redis-py.

    A call that raises `Lost` leaves the connection closed; the next call opens it again. Calls are not repeated
    here: it is up to the caller to send a script of this package again, which is safe.

    Args:
        client: The connection is made as its pool makes them: same address, user and TLS.
        timeout: Seconds to wait for a reply.
        read_bytes: How much is read at once.
    """

    def __init__(self, client: Redis, timeout: float = 10.0, read_bytes: int = 65536) -> None:
        self._pool = client.connection_pool
        self._timeout = timeout
        self._socket: Any = None
        self._reader: Any = None
        self._buffer = bytearray(read_bytes)

    def open(self, *, retry: bool = True) -> None:
        """Connect, if it is not connected.

        Args:
            retry: Try as often as the client does; False tries once.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or refuses the user.
        """
        if self._socket is None:
            options = self._pool.connection_kwargs
            if not retry:
                options = {**options, "retry": Retry(NoBackoff(), 0)}
            # Not the pool's own method: that counts what it has made, and makes no more than a hundred.
            connection: Any = self._pool.connection_class(**options)
            connection.socket_timeout = self._timeout
            connection.connect()
            # redis-py has connected and logged in. From here on its own calls would take as long as the rest of a job,
            # and its buffers more memory than all else here.
            self._socket, connection._sock = connection._sock, None
            slot_lost = getattr(connection, "slot_lost", None)  # of a cluster
            self._reader = hiredis.Reader(
                replyError=(lambda text: slot_lost(text) or _reply_error(text)) if slot_lost else _reply_error
            )

    def close(self) -> None:
        """Disconnect."""
        ours, self._socket = self._socket, None
        if ours is not None:
            with contextlib.suppress(OSError):
                # A process that a task has left behind may hold it too.
                ours.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):  # a task may have closed it
                ours.close()

    def forget(self) -> None:
        """Take the connection for closed without closing it: its number may be another file's by now."""
        ours, self._socket = self._socket, None
        if ours is not None:
            ours.detach()

    def close_copy(self) -> None:
        """Close this process's copy of the connection, which a forked process goes on using."""
        ours, self._socket = self._socket, None
        if ours is not None:
            ours.close()

    @property
    def socket(self) -> Any:
        """The socket, to be polled; None if closed."""
        return self._socket

    def send(self, *packed: bytes) -> None:
        """Send packed commands, without waiting for a reply."""
        if self._socket is None:
            self.open()
        try:
            self._socket.sendall(b"".join(packed) if len(packed) > 1 else packed[0])
        except OSError as error:
            self.close()
            raise ConnectionError(f"Error while writing to socket: {error}") from error
        except BaseException:
            self.close()
            raise

    def read(self) -> Any:
        """Wait for the next reply.

        Raises:
            redis.exceptions.RedisError: The connection broke, or Redis answered with an error.
        """
        gets = self._reader.gets
        reply = gets()
        try:
            while reply is False:
                if self._socket is None:
                    raise ConnectionError("The connection is closed.")
                size = self._socket.recv_into(self._buffer)
                if not size:
                    raise ConnectionError("Connection closed by server.")
                self._reader.feed(self._buffer, 0, size)
                reply = gets()
        except BaseException as error:
            # Whatever interrupted this, such as a signal's exception: the reply may still arrive.
            self.close()
            if isinstance(error, OSError) and not isinstance(error, RedisError):
                kind = TimeoutError if isinstance(error, builtins.TimeoutError) else ConnectionError
                raise kind(f"Error while reading from socket: {error}") from error
            raise
        if isinstance(reply, RedisError):
            if isinstance(reply, _LEAVING):
                self.close()
            raise reply
        return reply

    def call(self, *arguments: Any) -> Any:
        """One command and its reply."""
        self.send(pack(*arguments))
        return self.read()

    def call_all(self, commands: Sequence[bytes], *, optional: int = 0) -> list[Any]:
        """Several packed commands in one round trip.

        Args:
            commands: The commands.
            optional: How many of the first ones Redis may refuse.

        Returns:
            The replies of the others.

        Raises:
            redis.exceptions.RedisError: The connection broke, or Redis refused one; the others may have been done.
        """
        self.send(*commands)
        replies, refused = [], None
        for place in range(len(commands)):
            # All are read: what is left would be taken for the reply of a later call.
            try:
                reply = self.read()
            except ResponseError as error:
                if self._socket is None:
                    raise
                refused = refused or (error if place >= optional else None)
            else:
                replies += [reply] if place >= optional else []
        if refused is not None:
            raise refused
        return replies

    def load(self, script: Script) -> None:
        """Load a script into Redis. An error is ignored: the first call of the script then sends it."""
        with contextlib.suppress(ResponseError):
            self.call("SCRIPT", "LOAD", script.source)

    def run(
        self,
        script: Script,
        tail: Sequence[Any],
        before: Sequence[bytes] = (),
        meanwhile: Callable[[], object] | None = None,
    ) -> Any:
        """Call a script in one round trip.

        Args:
            script: The script.
            tail: The number of keys, the keys and the arguments.
            before: Packed commands to be sent ahead of it; their replies are thrown away.
            meanwhile: Called once all is sent: work that need not wait for the reply.
        """
        self.send(*before, pack(b"EVALSHA", script.sha, *tail))
        if meanwhile is not None:
            meanwhile()
        for _ in before:
            try:
                self.read()
            except ResponseError:
                continue
        try:
            return self.read()
        except NoScriptError:
            self.send(pack(b"EVAL", script.source, *tail))
            return self.read()
