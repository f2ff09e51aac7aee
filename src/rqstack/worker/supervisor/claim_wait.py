"""Waits for jobs without polling: one blocked connection per queue."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError, TimeoutError

from rqstack.transport import keys
from rqstack.transport.protocol import pack
from rqstack.transport.raw import RawConnection
from rqstack.worker.limits import OVERDUE
from rqstack.worker.unblock import open_to_wait, unblock

if TYPE_CHECKING:
    from redis import Redis


class BlockingClaim:
    """Waits in Redis for the first job on any of several queues, without polling and without losing one.

    Each queue has a connection that blocks in a BLMOVE into a list of the owner's own. So Redis wakes exactly one
    waiter for each job, and a job is on record as the owner's as soon as it leaves its queue.

    Args:
        client: As for `RawConnection`.
        owner: The owner of the claim lists to which jobs are moved: a supervisor's id.
        queue_keys: The queues.
        seconds: How long one BLMOVE blocks. Redis may move a job to an owner that was cut off for as long as that.
    """

    def __init__(self, client: Redis, owner: str, queue_keys: Sequence[str], seconds: float) -> None:
        self._commands = [
            pack("BLMOVE", key, keys.claim(owner, key), "LEFT", "RIGHT", str(seconds)) for key in queue_keys
        ]
        self._connections = [RawConnection(client, seconds + OVERDUE, 1024) for _ in queue_keys]
        self._client_ids = [0] * len(queue_keys)
        self._overdue_at: list[float | None] = [None] * len(queue_keys)  # None: not waiting
        self._patience = seconds + OVERDUE

    @property
    def is_waiting(self) -> bool:
        """Whether any queue is waited on."""
        return any(moment is not None for moment in self._overdue_at)

    @property
    def is_complete(self) -> bool:
        """Whether every queue is waited on."""
        return all(moment is not None for moment in self._overdue_at)

    @property
    def sockets(self) -> list[Any]:
        """The sockets that become readable when a wait has ended."""
        return [
            connection.socket
            for connection, moment in zip(self._connections, self._overdue_at, strict=True)
            if moment is not None
        ]

    def open(self, *, retry: bool = True) -> None:
        """Connect already. Arguments and errors as `RawConnection.open`."""
        for index in range(len(self._connections)):
            self._open(index, retry=retry)

    def close_copy(self) -> None:
        """As `RawConnection.close_copy`."""
        for connection in self._connections:
            connection.close_copy()

    def begin(self, max_connections: int | None = None) -> bool:
        """Wait on the queues that are not waited on yet. Returns whether there were any.

        Args:
            max_connections: How many connections to open at most: each takes some round trips. None for no limit.
        """
        begun = False
        for index, moment in enumerate(self._overdue_at):
            if moment is not None:
                continue
            if self._connections[index].socket is None and max_connections is not None:
                if not max_connections:
                    break
                max_connections -= 1
            self._open(index)
            self._connections[index].send(self._commands[index])
            self._overdue_at[index] = time.monotonic() + self._patience
            begun = True
        return begun

    def receive(self, readable: Container[int]) -> list[int]:
        """Read the replies that have come.

        Args:
            readable: File descriptors.

        Returns:
            The queues, by their place, from which Redis has moved a job, or whose wait another client has ended.

        Raises:
            redis.exceptions.RedisError: A connection broke, or Redis should have answered long ago.
        """
        moved = []
        now = time.monotonic()
        for index, moment in enumerate(self._overdue_at):
            if moment is None:
                continue
            if self._connections[index].socket.fileno() in readable:
                if self._read(index):
                    moved.append(index)
            elif now > moment:
                raise TimeoutError("Redis did not end a wait for jobs in time")
        return moved

    def end(self, main: RawConnection) -> None:
        """End all waiting, so that Redis moves nothing more to this owner's claim lists."""
        waiting = [index for index, moment in enumerate(self._overdue_at) if moment is not None]
        if waiting:
            unblock(main, [self._client_ids[index] for index in waiting])
            for index in waiting:
                self._read(index)

    def stop(self, main: RawConnection) -> None:
        """End all waiting, and disconnect."""
        self.end(main)
        self.close()

    def close(self) -> None:
        """Disconnect."""
        for index, connection in enumerate(self._connections):
            connection.close()
            self._overdue_at[index] = None

    def _open(self, index: int, *, retry: bool = True) -> None:
        connection = self._connections[index]
        if connection.socket is None:
            self._client_ids[index] = open_to_wait(connection, retry=retry)

    def _read(self, index: int) -> bool:
        self._overdue_at[index] = None
        try:
            return self._connections[index].read() is not None
        except ResponseError as error:
            # A queue or a list of another type was damaged by somebody: the next claim drops it.
            if not str(error).startswith(("UNBLOCKED", "WRONGTYPE")):
                raise
            return True
