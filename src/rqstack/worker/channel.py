"""A horse's own connections: one for its calls, one per queue to wait on."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from rqstack.worker.scripts import CLAIM, Script, claim_key

if TYPE_CHECKING:
    from redis import Redis

Lost = (ConnectionError, TimeoutError)
"""What a call raises when the connection broke: the call may have been done or not."""


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
    """

    def __init__(self, client: Redis, timeout: float = 10.0) -> None:
        self._pool = client.connection_pool
        self._timeout = timeout
        self._connection: Any = None
        self._send: Any = None
        self._read: Any = None

    def open(self) -> None:
        """Connect, if it is not connected.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or refuses the user.
        """
        if self._connection is None:
            connection: Any = self._pool.make_connection()
            connection.socket_timeout = self._timeout
            connection.connect()
            self._connection = connection
            self._send = connection.send_packed_command
            self._read = connection.read_response

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    @property
    def socket(self) -> Any:
        """The socket, to be polled; None if closed."""
        # redis-py has no public way to wait for several connections at once.
        return self._connection and self._connection._sock

    def send(self, *packed: bytes) -> None:
        """Send packed commands, without waiting for a reply."""
        self.open()
        try:
            self._send(packed, check_health=False)
        except BaseException:
            self.close()
            raise

    def read(self) -> Any:
        """Wait for the next reply.

        Raises:
            redis.exceptions.RedisError: The connection broke, or Redis answered with an error.
        """
        try:
            return self._read(disable_decoding=True)
        except ResponseError:
            raise
        except BaseException:
            # Whatever stopped us in the middle, a signal's exception included: the reply may still come.
            self.close()
            raise

    def call(self, *arguments: Any) -> Any:
        """One command and its reply."""
        self.send(pack(*arguments))
        return self.read()

    def run(self, script: Script, tail: Sequence[Any], before: Sequence[bytes] = ()) -> Any:
        """Call a script in one round trip.

        Args:
            script: The script.
            tail: The number of keys, the keys and the arguments.
            before: Packed commands to be sent ahead of it; their replies are thrown away.
        """
        self.send(*before, pack(b"EVALSHA", script.sha, *tail))
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
        self._channels = [Channel(client, seconds + 5) for _ in queue_keys]
        self._unblock: list[bytes] = [b""] * len(queue_keys)
        self._waiting = [False] * len(queue_keys)

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
                if channel.socket is None:
                    identity = channel.call("CLIENT", "ID")
                    self._unblock[index] = pack("CLIENT", "UNBLOCK", str(identity))
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

    def close(self) -> None:
        """Disconnect."""
        for index, channel in enumerate(self._channels):
            channel.close()
            self._waiting[index] = False
