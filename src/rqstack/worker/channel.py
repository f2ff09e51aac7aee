"""A horse's own connections: one for its calls, one per queue to wait on."""

from __future__ import annotations

import builtins
import contextlib
import encodings.idna  # noqa: F401 - what looking up a host imports: once, before the fork, and not in each horse
import select
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

from rqstack.worker.scripts import CLAIM, Script, claim_key

if TYPE_CHECKING:
    from redis import Redis


_ERRORS: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,
    "NOPERM": NoPermissionError,
    "NOSCRIPT": NoScriptError,
    "OOM": OutOfMemoryError,
    "READONLY": ReadOnlyError,
}

Lost = (ConnectionError, TimeoutError)
"""What a call raises when the connection broke: the call may have been done or not."""


def _reply_error(text: str) -> RedisError:
    """The exception that redis-py has for an error reply."""
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    return kind(rest) if kind is not None else ResponseError(text)


def pack(*command: Any) -> bytes:
    """A command in Redis's protocol; parts are text, bytes or numbers."""
    packed: bytes = hiredis.pack_command(command)
    return packed


class Channel:
    """One connection, with nothing between the caller and Redis's protocol.

    A call that raises `Lost` leaves the channel closed; the next call opens it again. Calls are not repeated here: the
    scripts of this package may be sent again as they are, and it is for the caller to do so.

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
            retry: As often as the client does; or else try once.

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
            # redis-py has connected and signed in. From here on its own calls would cost as much as the rest of a job,
            # and its buffers more memory than all that is needed here.
            self._socket, connection._sock = connection._sock, None
            self._reader = hiredis.Reader(replyError=_reply_error)

    def close(self) -> None:
        """Disconnect."""
        ours, self._socket = self._socket, None
        if ours is not None:
            with contextlib.suppress(OSError):
                # A process that a task has left behind may have it too.
                ours.shutdown(socket.SHUT_RDWR)
            ours.close()

    def leave(self) -> None:
        """Leave the connection to a process that was forked since: close it here, and do not disconnect."""
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
                size = self._socket.recv_into(self._buffer)
                if not size:
                    raise ConnectionError("Connection closed by server.")
                self._reader.feed(self._buffer, 0, size)
                reply = gets()
        except BaseException as error:
            # Whatever stopped us in the middle, a signal's exception included: the reply may still come.
            self.close()
            if isinstance(error, OSError) and not isinstance(error, RedisError):
                kind = TimeoutError if isinstance(error, builtins.TimeoutError) else ConnectionError
                raise kind(f"Error while reading from socket: {error}") from error
            raise
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def call(self, *arguments: Any) -> Any:
        """One command and its reply."""
        self.send(pack(*arguments))
        return self.read()

    def load(self, script: Script) -> None:
        """Have Redis keep a script. (If it refuses, whoever calls the script sends it.)"""
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


class Waiters:
    """Waits in Redis for the first job on any of several queues, without polling and without losing one.

    Each queue has a connection that blocks in a BLMOVE into a list of this worker's own, so that Redis wakes exactly
    one waiter for each job, and a job is on record as this worker's from the moment on that it leaves its queue.

    Args:
        client: As for `Channel`.
        worker: The worker's name.
        queue_keys: The queues.
        seconds: How long one BLMOVE blocks: less than the time after which a supervisor is taken for dead, so that
            Redis gives nothing to a dead worker later than that.
    """

    def __init__(self, client: Redis, worker: str, queue_keys: Sequence[str], seconds: float) -> None:
        self._commands = [
            pack("BLMOVE", key, claim_key(worker, key), "LEFT", "RIGHT", str(seconds)) for key in queue_keys
        ]
        self._channels = [Channel(client, seconds + 5, 1024) for _ in queue_keys]
        self._unblock: list[bytes] = [b""] * len(queue_keys)
        self._waiting = [False] * len(queue_keys)

    def open(self, *, retry: bool = True) -> None:
        """Connect already. Arguments and errors as `Channel.open`."""
        for index in range(len(self._channels)):
            self._open(index, retry=retry)

    def leave(self) -> None:
        """As `Channel.leave`."""
        for channel in self._channels:
            channel.leave()

    def wait(self, wakeup: int, timeout: float | None) -> bool:
        """Wait for a job.

        Args:
            wakeup: A file descriptor that ends the wait when it can be read.
            timeout: Seconds; None for no limit.

        Returns:
            Whether Redis has moved a job. `claim` must be called in any case.
        """
        for index, channel in enumerate(self._channels):
            if not self._waiting[index]:
                self._open(index)
                channel.send(self._commands[index])
                self._waiting[index] = True
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        places = {}
        for index, channel in enumerate(self._channels):
            places[channel.socket.fileno()] = index
            poll.register(channel.socket, select.POLLIN)
        moved = False
        for number, _ in poll.poll(None if timeout is None else max(timeout, 0) * 1000):
            if number in places:
                index = places[number]
                self._waiting[index] = False
                moved |= self._channels[index].read() is not None
        return moved

    def claim(self, main: Channel, tail: Sequence[Any]) -> Any:
        """End all waiting, and claim what Redis moved, or else what is there, in the order of the queues.

        The waiting ends before the script runs, in the same trip: what was moved to another list meanwhile is put
        back at the head of its queue by the script.

        Args:
            main: The channel for the call.
            tail: As for `Channel.run`.

        Returns:
            What claim.lua returns.
        """
        waiting = [index for index, is_waiting in enumerate(self._waiting) if is_waiting]
        reply = main.run(CLAIM, tail, [self._unblock[index] for index in waiting])
        for index in waiting:
            self._waiting[index] = False
            self._channels[index].read()
        return reply

    def stop(self, main: Channel) -> None:
        """End all waiting, so that Redis moves nothing more to this worker."""
        for index, is_waiting in enumerate(self._waiting):
            if is_waiting:
                main.send(self._unblock[index])
                main.read()
        self.close()

    def _open(self, index: int, *, retry: bool = True) -> None:
        channel = self._channels[index]
        if channel.socket is None:
            channel.open(retry=retry)
            self._unblock[index] = pack("CLIENT", "UNBLOCK", str(channel.call("CLIENT", "ID")))

    def close(self) -> None:
        """Disconnect."""
        for index, channel in enumerate(self._channels):
            channel.close()
            self._waiting[index] = False
