"""Waits for jobs without polling: one blocked connection per queue."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rqstack.transport import keys
from rqstack.transport.protocol import pack
from rqstack.transport.raw import RawConnection
from rqstack.worker.scripts import CLAIM

if TYPE_CHECKING:
    from redis import Redis


class BlockingClaim:
    """Waits in Redis for the first job on any of several queues, without polling and without losing one.

    Each queue has a connection that blocks in a BLMOVE into a list of this worker's own. So Redis wakes exactly one
    waiter for each job, and a job is on record as this worker's as soon as it leaves its queue.

    Args:
        client: As for `RawConnection`.
        worker: The worker's name.
        queue_keys: The queues.
        seconds: How long one BLMOVE blocks: less than the time after which a supervisor is taken for dead, so that
            Redis gives nothing to a dead worker later than that.
    """

    def __init__(self, client: Redis, worker: str, queue_keys: Sequence[str], seconds: float) -> None:
        self._commands = [
            pack("BLMOVE", key, keys.claim(worker, key), "LEFT", "RIGHT", str(seconds)) for key in queue_keys
        ]
        self._connections = [RawConnection(client, seconds + 5, 1024) for _ in queue_keys]
        self._unblock: list[bytes] = [b""] * len(queue_keys)
        self._waiting = [False] * len(queue_keys)

    def open(self, *, retry: bool = True) -> None:
        """Connect already. Arguments and errors as `RawConnection.open`."""
        for index in range(len(self._connections)):
            self._open(index, retry=retry)

    def close_copy(self) -> None:
        """As `RawConnection.close_copy`."""
        for connection in self._connections:
            connection.close_copy()

    def wait(self, wakeup: int, timeout: float | None) -> bool:
        """Wait for a job.

        Args:
            wakeup: A file descriptor that ends the wait when it can be read.
            timeout: Seconds; None for no limit.

        Returns:
            Whether Redis has moved a job. `claim` must be called in any case.
        """
        for index, connection in enumerate(self._connections):
            if not self._waiting[index]:
                self._open(index)
                connection.send(self._commands[index])
                self._waiting[index] = True
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        places = {}
        for index, connection in enumerate(self._connections):
            places[connection.socket.fileno()] = index
            poll.register(connection.socket, select.POLLIN)
        moved = False
        for number, _ in poll.poll(None if timeout is None else max(timeout, 0) * 1000):
            if number in places:
                index = places[number]
                self._waiting[index] = False
                moved |= self._connections[index].read() is not None
        return moved

    def claim(self, main: RawConnection, tail: Sequence[Any]) -> Any:
        """End all waiting, and claim what Redis moved, or else what is there, in the order of the queues.

        The waiting ends before the script runs, in the same trip: what was moved to another list meanwhile is put
        back at the head of its queue by the script.

        Args:
            main: The connection for the call.
            tail: As for `RawConnection.run`.

        Returns:
            What claim.lua returns.
        """
        waiting = [index for index, is_waiting in enumerate(self._waiting) if is_waiting]
        reply = main.run(CLAIM, tail, [self._unblock[index] for index in waiting])
        for index in waiting:
            self._waiting[index] = False
            self._connections[index].read()
        return reply

    def stop(self, main: RawConnection) -> None:
        """End all waiting, so that Redis moves nothing more to this worker."""
        for index, is_waiting in enumerate(self._waiting):
            if is_waiting:
                main.send(self._unblock[index])
                main.read()
        self.close()

    def _open(self, index: int, *, retry: bool = True) -> None:
        connection = self._connections[index]
        if connection.socket is None:
            connection.open(retry=retry)
            self._unblock[index] = pack("CLIENT", "UNBLOCK", str(connection.call("CLIENT", "ID")))

    def close(self) -> None:
        """Disconnect."""
        for index, connection in enumerate(self._connections):
            connection.close()
            self._waiting[index] = False
