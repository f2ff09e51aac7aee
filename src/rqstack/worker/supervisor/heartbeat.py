"""The heartbeats of a supervisor: they keep it on record in Redis, and detect other supervisors that are dead."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from rqstack.errors import IncompatibleSchema
from rqstack.worker.horse.abandoned import AbandonedJob, failure_reason
from rqstack.worker.scripts import CLAIM, SETTLE
from rqstack.worker.settle import release_dependents
from rqstack.worker.supervisor.recovery import FORGET_AFTER

if TYPE_CHECKING:
    from rqstack.settings import Settings
    from rqstack.transport.raw import RawConnection
    from rqstack.transport.schema import SharedSchema
    from rqstack.worker.lease import Lease
    from rqstack.worker.scoreboard import Scoreboard
    from rqstack.worker.supervisor.pool import HorsePool
    from rqstack.worker.supervisor.recovery import HeartbeatReply, Recovery

log = logging.getLogger("rq.worker")

_THOROUGH = 60.0
"""Seconds between the heartbeats that renew what lasts for minutes: less than `EXECUTION_TTL`."""

_RETRY = 0.5
"""Seconds until the next try when Redis is unavailable."""


class Heartbeat:
    """Sends the heartbeats of a supervisor, and takes over the jobs of supervisors that send none.

    Args:
        recovery: Its part in Redis.
        connection: The supervisor's connection.
        schema: The version of the data that its process writes.
        settings: For the times.
        pool: Its horses.
        scoreboard: What they report.
        supervisor: The supervisor's id.
    """

    def __init__(
        self,
        recovery: Recovery,
        connection: RawConnection,
        schema: SharedSchema,
        settings: Settings,
        pool: HorsePool,
        scoreboard: Scoreboard,
        supervisor: str,
    ) -> None:
        self.due_at = 0.0
        """Monotonic time of the next one."""
        self._recovery = recovery
        self._connection = connection
        self._schema = schema
        self._settings = settings
        self._pool = pool
        self._scoreboard = scoreboard
        self._supervisor = supervisor
        self._thorough_at = 0.0
        self._check_dead_until = 0.0
        self._in_touch_since: float | None = None
        self._reached_at = 0.0
        self._has_scripts = False
        self._others = 0
        self._is_recovered = False

    @property
    def is_on_record(self) -> bool:
        """Whether Redis has had a heartbeat, so that horses may claim."""
        return self._in_touch_since is not None

    @property
    def may_clean(self) -> bool:
        """Whether RQ's registries may be cleaned: that fails the jobs of dead workers, which must be put back first."""
        return not self._others or self._is_recovered

    def send(self, moment: float) -> None:
        """Send one, and do what its reply asks for; tries again soon if Redis is unavailable.

        Args:
            moment: Monotonic time.

        Raises:
            IncompatibleSchema: A newer release has joined while this supervisor was away.
        """
        try:
            self._send(moment)
        except RedisError as error:
            log.warning("Redis is unavailable (%s); trying again", error)
            self._has_scripts = False
            self._thorough_at = 0.0
            self._in_touch_since = None if self._in_touch_since is None else moment
            self._is_recovered = False
            self.due_at = moment + _RETRY
            return
        except IncompatibleSchema:
            self.due_at = moment + self._settings.heartbeat
            raise
        self.due_at = moment + self._settings.heartbeat

    def _send(self, moment: float) -> None:
        names = [slot.worker.name for slot in self._pool.slots if not (slot.retired and not slot.pid)]
        thorough = moment >= self._thorough_at
        busy = any(self._scoreboard.busy_since(slot.index) for slot in self._pool.slots)
        reply = self._recovery.heartbeat(names, thorough=thorough, busy=busy)
        self._schema.check(reply.schema)
        if thorough:
            self._thorough_at = moment + _THOROUGH
        for slot in self._pool.slots:
            if slot.worker.name in reply.missing:
                slot.worker.drop_damage()
                slot.worker.register_again(busy=bool(self._recovery.jobs(slot.worker.name)))
        if not (reply.known and self._has_scripts):  # Redis is new, was away, or has lost all it had
            # A horse that sends a script itself keeps half a megabyte for the rest of its life.
            for script in (CLAIM, SETTLE):
                self._connection.load(script)
            self._has_scripts = True
        if reply.releasing:
            release_dependents(self._connection)
        if reply.others is not None:
            self._others = reply.others
        self._note_contact()
        self._recover_dead(reply, moment, thorough=thorough)

    def _note_contact(self) -> None:
        settings, reached = self._settings, time.monotonic()
        # After so long without Redis, or standing still, the heartbeats of others look old though they live.
        gap = max(settings.dead_after - settings.heartbeat, settings.heartbeat * 1.4)
        if self._in_touch_since is None or reached - self._reached_at > gap:
            self._in_touch_since = reached
            self._is_recovered = False
        self._reached_at = reached

    def _recover_dead(self, reply: HeartbeatReply, moment: float, *, thorough: bool) -> None:
        settings = self._settings
        # After an outage, wait until the others have had time for a heartbeat.
        if self._in_touch_since is None or moment - self._in_touch_since < settings.dead_after:
            return
        for supervisor in reply.dead:
            if supervisor != self._supervisor.encode():
                leases = self._recovery.take_over(supervisor)
                log.warning(
                    "Supervisor %s is dead; its %d running jobs are recovered",
                    supervisor[:200].decode(errors="backslashreplace"),
                    len(leases),
                )
                self._abandon(leases)
            self._check_dead_until = moment + FORGET_AFTER + settings.heartbeat
        if thorough or not self._is_recovered or moment < self._check_dead_until:
            self._abandon(self._recovery.check_dead_again())
        self._is_recovered = True

    def _abandon(self, leases: Sequence[Lease]) -> None:
        """Fail the jobs that have ended their process too often, each in a side job."""
        reason = failure_reason("with its whole worker", self._settings.max_crashes)
        for lease in leases:
            if lease.action == "abandon":
                self._pool.start_side_job(AbandonedJob(lease, reason))
