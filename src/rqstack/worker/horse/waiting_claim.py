"""Waits for a job on one queue, and claims it as soon as it is there, in the same trip to Redis."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError, TimeoutError

from rqstack.transport import keys
from rqstack.transport.protocol import pack
from rqstack.transport.raw import RawConnection
from rqstack.worker.limits import OVERDUE
from rqstack.worker.scripts import CLAIM
from rqstack.worker.unblock import open_to_wait, unblock

if TYPE_CHECKING:
    from redis import Redis

_UNANSWERED = 1.0
"""Seconds after which a wait that Redis does not know of counts as lost."""

_AGAIN = 0.02
"""Seconds between two tries to end a wait that is on its way."""


class WaitingClaim:
    """Waits in Redis for a job of a queue, without polling and without losing one.

    A BLMOVE moves the job to a list of the worker's own, so Redis wakes exactly one horse for each job. A call of
    claim.lua is sent right behind it: Redis runs that when the BLMOVE has ended, whatever has ended it, and the horse
    is woken once, with its job. So a wait that Redis has not answered may have claimed a job. It must be asked for with
    the same call, after `end`.

    Args:
        client: As for `RawConnection`.
        worker: The worker's name.
        queue_key: The queue.
        seconds: How long one BLMOVE blocks. Redis may move a job to a worker that was cut off for as long as that.
    """

    def __init__(self, client: Redis, worker: str, queue_key: str, seconds: float) -> None:
        self._wait = pack("BLMOVE", queue_key, keys.claim(worker, queue_key), "LEFT", "RIGHT", str(seconds))
        self._connection = RawConnection(client, seconds + OVERDUE)
        self._patience = seconds + OVERDUE
        self._overdue_at = 0.0
        self._lost = 0
        self.client_id = 0
        """Redis's id of the connection, for CLIENT UNBLOCK."""
        self.is_waiting = False
        """Whether a wait has been sent, and not answered."""

    def open(self, *, retry: bool = True) -> None:
        """Connect already. Arguments and errors as `RawConnection.open`."""
        if self._connection.socket is None:
            self.client_id = open_to_wait(self._connection, retry=retry)

    def close_copy(self) -> None:
        """As `RawConnection.close_copy`."""
        self._connection.close_copy()

    def forget(self) -> None:
        """As `RawConnection.forget`."""
        self._connection.forget()

    def begin(self, tail: Sequence[Any]) -> None:
        """Begin to wait.

        Args:
            tail: The number of keys, the keys and the arguments of claim.lua.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        self.open()
        self.is_waiting = True
        self._overdue_at = time.monotonic() + self._patience
        self._connection.send(self._wait, pack(b"EVALSHA", CLAIM.sha, *tail))

    def wait(self, wakeup: int, timeout: float) -> list[Any] | None:
        """Wait for the end of the wait that was begun.

        Args:
            wakeup: A file descriptor that ends this when it can be read.
            timeout: Seconds.

        Returns:
            What claim.lua returns; None if Redis has not ended the wait yet.

        Raises:
            redis.exceptions.RedisError: The connection broke, Redis should have answered long ago, or it refuses.
        """
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        poll.register(self._connection.socket, select.POLLIN)
        overdue = self._overdue_at - time.monotonic()
        for descriptor, _ in poll.poll(max(min(timeout, overdue), 0) * 1000 + 1):
            if descriptor != wakeup:
                return self._read()
        if time.monotonic() > self._overdue_at:
            raise TimeoutError("Redis did not end a wait for jobs in time")
        return None

    def end(self, main: RawConnection) -> list[Any] | None:
        """End the wait; also one whose connection was lost, which Redis may not have noticed.

        Args:
            main: Another connection.

        Returns:
            What claim.lua returns; None if there was no wait, or its connection is lost.

        Raises:
            redis.exceptions.RedisError: As for `wait`.
        """
        if self.is_waiting:
            until = time.monotonic() + _UNANSWERED
            while not unblock(main, [self.client_id]) and not self._has_reply(_AGAIN):
                # The wait has not reached Redis yet; or nothing does that this connection sends.
                if time.monotonic() > until:
                    raise TimeoutError("Redis does not know of a wait for jobs")
            return self._read()
        if self._lost:
            # If Redis was restarted it is another client's id now, whose wait ends early.
            unblock(main, [self._lost])
            self._lost = 0
        return None

    def close(self) -> None:
        """Disconnect."""
        if self.is_waiting:
            self.is_waiting, self._lost = False, self.client_id
        self._connection.close()

    def _has_reply(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._connection.socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def _read(self) -> list[Any]:
        refused = None
        try:
            self._connection.read()
        except ResponseError as error:
            refused = error
        reply: list[Any] = self._connection.read()
        self.is_waiting = False
        if refused is not None and reply[0] == b"empty":
            raise refused
        return reply
