"""Waits for jobs on behalf of idle horses: one connection per queue for a whole supervisor.

A horse waits in Redis on its first queue only, so there it is woken directly. On the other queues its supervisor waits.
When Redis has moved a job to the supervisor's claim list, the supervisor wakes an idle horse by ending that horse's own
wait (CLIENT UNBLOCK). Redis's answer tells whether the horse was still waiting, so no two jobs rely on one horse. The
horse's claim, which waits behind its wait, then runs as always: what was moved goes back to its queue, and the first
job in the order of the queues is taken. A job for which no horse is idle goes back at once, to the head of its queue.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from rqstack.transport import keys
from rqstack.worker.supervisor.claim_wait import BlockingClaim
from rqstack.worker.unblock import unblock

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.transport.raw import RawConnection
    from rqstack.worker.scoreboard import Scoreboard
    from rqstack.worker.supervisor.recovery import Recovery

log = logging.getLogger("rq.worker")

_AWAY = 0.02
"""Seconds for which a horse that was woken, or did not wait in Redis yet, counts as busy unless it waits anew."""

_TAKEN_WITHIN = 1.0
"""Seconds within which a woken horse has claimed; afterwards what is left goes back to its queue."""

_LINGER = 1.0
"""Seconds for which the waits go on when no horse is idle: to end them for every short job would cost more."""

_RETRY = 0.5
"""Seconds until the next try when Redis is unavailable."""

_OPENED_AT_ONCE = 16
"""Connections that are opened in one pass of the supervisor's loop: each takes some round trips."""


class QueueWait:
    """The waits of a supervisor on all queues but the first.

    Args:
        client: As for `RawConnection`.
        supervisor: The supervisor's id.
        queue_keys: All queues, in order of priority.
        seconds: As for `BlockingClaim`.
        scoreboard: Where the horses write that they are idle.
        horses: How many there are.
    """

    def __init__(
        self,
        client: Redis,
        supervisor: str,
        queue_keys: Sequence[str],
        seconds: float,
        scoreboard: Scoreboard,
        horses: int,
    ) -> None:
        self._supervisor = supervisor
        self._queue_keys = queue_keys[1:]
        self._waits = BlockingClaim(client, supervisor, self._queue_keys, seconds)
        self._scoreboard = scoreboard
        self._horses = horses
        self._bell = scoreboard.add_bell() if self._queue_keys else -1
        self._away: dict[int, tuple[int, float]] = {}
        self._next = 0
        self._idle_at = 0.0
        self._retry_at = 0.0
        self._look_at = float("inf")
        self._return_at = float("inf")

    @property
    def polled(self) -> list[Any]:
        """File descriptors and sockets that become readable when `serve` has something to do."""
        return [self._bell, *self._waits.sockets] if self._queue_keys else []

    def close_copy(self) -> None:
        """In a forked process: close its copies of the connections."""
        self._waits.close_copy()

    def next_due(self) -> float:
        """The monotonic time at which `serve` is to be called at the latest."""
        return min(self._return_at, self._look_at)

    def serve(
        self, readable: Container[int], moment: float, main: RawConnection, recovery: Recovery, *, active: bool
    ) -> None:
        """Wake horses for the jobs that Redis has moved, and go on waiting while a horse is idle.

        Args:
            readable: File descriptors that can be read.
            moment: Monotonic time.
            main: The supervisor's connection.
            recovery: Puts moved jobs back.
            active: Horses may claim: the supervisor is on record, and is not stopping.
        """
        if self._bell in readable:
            self._scoreboard.clear_bell()
        if not self._queue_keys or moment < self._retry_at:
            return
        try:
            self._deliver(readable, moment, main, active=active)
            if active and self._is_any_idle(moment):
                self._go_on(moment)
            elif self._waits.is_waiting and (not active or moment - self._idle_at > _LINGER):
                self._pause(moment, main)
            if moment >= self._return_at:
                self._return_at = float("inf")
                recovery.put_back([], crashed=False)
        except RedisError as error:
            log.debug("No waiting for jobs while Redis is unavailable: %s", error)
            self._waits.close()
            self._scoreboard.silence(silent=False)
            self._look_at = self._return_at = self._retry_at = moment + _RETRY

    def stop(self, main: RawConnection) -> None:
        """End all waiting. Moved jobs are put back by `Recovery.put_back`."""
        self._waits.stop(main)

    def close(self) -> None:
        """Disconnect."""
        self._waits.close()
        self._scoreboard.close_bell()

    def _deliver(self, readable: Container[int], moment: float, main: RawConnection, *, active: bool) -> None:
        """Wake a horse for each job that Redis has moved here, or return the job to its queue."""
        for index in self._waits.receive(readable):
            if active and self._wake(main, moment):
                self._return_at = min(self._return_at, moment + _TAKEN_WITHIN)
            else:
                key = self._queue_keys[index]
                main.call("LMOVE", keys.claim(self._supervisor, key), key, "RIGHT", "LEFT")
        # Before the horses are checked: one that becomes idle after that writes into the pipe.
        self._scoreboard.silence(silent=active and self._waits.is_complete)
        self._look_at = float("inf")

    def _go_on(self, moment: float) -> None:
        """Wait on every queue: a horse is idle."""
        self._idle_at = moment
        if self._waits.begin(_OPENED_AT_ONCE) and not self._waits.is_complete:
            self._look_at = moment
        self._scoreboard.silence(silent=self._waits.is_complete)

    def _pause(self, moment: float, main: RawConnection) -> None:
        """Wait no more: no horse is idle, or none may claim."""
        self._waits.end(main)
        self._scoreboard.silence(silent=False)
        self._return_at = moment  # what was moved here until now goes back at once

    def _wake(self, main: RawConnection, moment: float) -> bool:
        """Wake one idle horse, if there is one."""
        for step in range(self._horses):
            index = (self._next + step) % self._horses
            client_id, ticket = self._scoreboard.waiting(index)
            if self._is_idle(index, moment):
                self._away[index] = ticket, moment + _AWAY
                if unblock(main, [client_id]):
                    self._next = index + 1
                    return True
        return False

    def _is_any_idle(self, moment: float) -> bool:
        idle = False
        for index in range(self._horses):
            if self._is_idle(index, moment):
                idle = True
            elif self._scoreboard.waiting(index)[0]:
                self._look_at = min(self._look_at, self._away[index][1])
        return idle

    def _is_idle(self, index: int, moment: float) -> bool:
        client_id, ticket = self._scoreboard.waiting(index)
        if not client_id:
            return False
        away, until = self._away.get(index, (0, 0.0))
        return ticket != away or moment >= until
