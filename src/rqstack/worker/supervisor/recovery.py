"""Heartbeats and crash recovery."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ResponseError

from rqstack.transport import keys
from rqstack.transport.damaged import name_of, parse_names
from rqstack.transport.errors import is_damage, is_wrong_type
from rqstack.transport.schema import OLDEST, VERSION
from rqstack.transport.timestamps import format_seconds
from rqstack.worker.lease import Lease, jobs_of
from rqstack.worker.scripts import EXECUTION_TTL, HEARTBEAT, RECOVER
from rqstack.worker.unblock import unblock

if TYPE_CHECKING:
    from rqstack.transport.raw import RawConnection

log = logging.getLogger("rq.worker")

FORGET_AFTER = 75.0
"""Seconds for which a dead supervisor's claims are checked again and again: longer than any wait in Redis."""

_CHECKED_AT_ONCE = 100
"""Dead supervisors that are checked at once. The others have their turn when these are forgotten."""

_MOST_NAMES = 2000
"""Queues, or workers, that a supervisor's record may have."""


class HeartbeatReply(NamedTuple):
    """The answer to a heartbeat.

    Args:
        known: Redis had this supervisor on record.
        missing: Workers whose record is gone.
        dead: Supervisors without a heartbeat for too long.
        others: How many other supervisors there are; None if it was not counted.
        releasing: How many jobs have dependents that are still to be released.
        schema: For `SharedSchema.check`.
    """

    known: bool
    missing: list[str]
    dead: list[bytes]
    others: int | None
    releasing: int
    schema: Any


class Recovery:
    """Keeps a supervisor and its workers on record in Redis, and puts back the jobs of dead ones.

    Args:
        connection: The connection for it.
        supervisor: The supervisor's id.
        hostname: Its host.
        queues: Names of its queues.
        dead_after: Seconds without a heartbeat after which a supervisor is dead.
        worker_ttl: Seconds after which a worker's record expires without one.
        max_crashes: Times a job may end its process.
    """

    def __init__(
        self,
        connection: RawConnection,
        supervisor: str,
        *,
        hostname: str,
        queues: Sequence[str],
        dead_after: float,
        worker_ttl: int,
        max_crashes: int,
    ) -> None:
        self._connection = connection
        self._supervisor = supervisor
        self._hostname = hostname
        self._queues = list(queues)
        self._dead_after = dead_after
        self._worker_ttl = worker_ttl
        self._max_crashes = max_crashes

    def heartbeat(self, workers: Sequence[str], *, thorough: bool = True, busy: bool = True) -> HeartbeatReply:
        """Tell Redis that this supervisor, its workers and their jobs are alive.

        Args:
            workers: The names of the workers.
            thorough: Renew too what lasts for minutes, and count the other supervisors.
            busy: One of the workers runs a job.
        """
        names = (keys.SUPERVISORS, keys.supervisor(self._supervisor), keys.running(self._supervisor))
        now = time.time()
        known, missing, dead, others, releasing, schema = self._connection.run(
            HEARTBEAT,
            (
                len(names),
                *names,
                self._supervisor,
                json.dumps(self._queues),
                json.dumps(list(workers)) if workers else "[]",
                self._hostname,
                format_seconds(now),
                f"{now:.6f}",
                self._worker_ttl,
                EXECUTION_TTL,
                str(self._dead_after),
                "1" if thorough else "0",
                "1" if busy else "0",
                VERSION,
                OLDEST,
            ),
        )
        return HeartbeatReply(
            bool(known),
            [name.decode() for name in missing],
            dead,
            others,
            releasing,
            schema,
        )

    def put_back(
        self, workers: Sequence[str], *, crashed: bool, fail: bool = False, begun: str = "", stopped: str = ""
    ) -> list[Lease]:
        """Put back what workers of this supervisor hold, whose horses have ended.

        Args:
            workers: Their names.
            crashed: It counts as a crash of the running job.
            fail: A running job is not put back but returned as one to abandon.
            begun: The execution that the horse had begun last; "" for none.
            stopped: The execution that a command has stopped: returned as one to abandon; "" for none.
        """
        mode = "fail" if fail else "crash" if crashed else "return"
        return self._recover(self._supervisor, self._queues, workers, mode, dead=False, begun=begun, stopped=stopped)

    def end_wait(self, client_id: int) -> None:
        """End the wait of a horse that is gone, before what it holds is put back.

        Its connection may be open still: a process that a task has left behind may have it too. Redis would give it the
        next job.

        Args:
            client_id: Redis's id of the connection.
        """
        unblock(self._connection, [client_id])

    def jobs(self, worker: str) -> list[tuple[str, str, str]]:
        """The jobs that a worker of this supervisor runs or has claimed: each its queue, its id and its execution."""
        try:
            return jobs_of(self._connection.call("HGET", keys.running(self._supervisor), worker))
        except ResponseError as error:
            if not is_damage(error):
                raise
            return []  # the next claim or heartbeat drops what is there

    def take_over(self, supervisor: bytes) -> list[Lease]:
        """Put back what the workers of a dead supervisor hold, and forget them.

        Args:
            supervisor: Its id as it is in Redis, where anybody may have written it.
        """
        if (name := name_of(supervisor)) is None or not self._connection.call("EXISTS", keys.supervisor(name)):
            self._connection.call("ZREM", keys.SUPERVISORS, supervisor)
            return []
        # On the list first: if this process dies in between, the second check finds what is left.
        self._call_on(keys.DEAD_SUPERVISORS, "ZADD", f"{time.time():.3f}", name)
        return self._recover_dead(name)

    def check_dead_again(self) -> list[Lease]:
        """Put back what Redis moved to a dead supervisor, or its workers, after they were forgotten.

        A connection that was cut off may still wait in Redis for a job, for as long as one wait takes.
        """
        held: list[Lease] = []
        for raw in self._call_on(keys.DEAD_SUPERVISORS, "ZRANGE", 0, _CHECKED_AT_ONCE - 1):
            if (supervisor := name_of(raw)) is None:
                self._connection.call("ZREM", keys.DEAD_SUPERVISORS, raw)
                continue
            now = time.time()
            taken_over = self._connection.call("ZSCORE", keys.DEAD_SUPERVISORS, supervisor)
            # A time in the future is nobody's.
            late = abs(now - float(taken_over or 0)) > FORGET_AFTER
            beat = self._call_on(keys.SUPERVISORS, "ZSCORE", supervisor)
            if beat is None:
                found = self._recover_dead(supervisor, again=True)
                held += found
                if any(job.action == "abandon" for job in found):
                    self._connection.call("ZADD", keys.DEAD_SUPERVISORS, f"{now:.3f}", supervisor)
                elif late:
                    self._connection.call("DEL", keys.supervisor(supervisor), keys.running(supervisor))
                    self._connection.call("ZREM", keys.DEAD_SUPERVISORS, supervisor)
            elif late and now - float(beat) < self._dead_after:  # else it is dead again, and taken over again
                self._connection.call("ZREM", keys.DEAD_SUPERVISORS, supervisor)
        return held

    def deregister(self) -> None:
        """Remove this supervisor's record: it has put everything back."""
        self._connection.call("ZREM", keys.SUPERVISORS, self._supervisor)
        self._connection.call("DEL", keys.supervisor(self._supervisor), keys.running(self._supervisor))

    def _recover_dead(self, supervisor: str, *, again: bool = False) -> list[Lease]:
        try:
            raw = self._connection.call("HMGET", keys.supervisor(supervisor), "queues", "workers")
            if raw[0] is None:
                self._connection.call("ZREM", keys.SUPERVISORS, supervisor)
                return []
            queues, workers = (parse_names(value, _MOST_NAMES) for value in raw)
            return self._recover(supervisor, queues, workers, "again" if again else "crash", dead=True)
        except (ResponseError, ValueError) as error:
            if isinstance(error, ResponseError) and not is_damage(error):
                raise
            # One damaged record must not keep those of other supervisors from being recovered.
            log.error("The record of dead supervisor %s is damaged and is dropped: %s", supervisor, error)
            self._connection.call("DEL", keys.supervisor(supervisor))
            for key in (keys.SUPERVISORS, keys.DEAD_SUPERVISORS):
                self._call_on(key, "ZREM", supervisor)
            return []

    def _call_on(self, key: str, command: str, *arguments: Any) -> Any:
        """Send a command for a sorted set; a key of another type is dropped first."""
        try:
            return self._connection.call(command, key, *arguments)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            log.error("%s is of the wrong type in Redis, and is dropped.", key)
            self._connection.call("DEL", key)
            return self._connection.call(command, key, *arguments)

    def _recover(
        self,
        supervisor: str,
        queues: Sequence[str],
        workers: Sequence[str],
        mode: str,
        *,
        dead: bool,
        begun: str = "",
        stopped: str = "",
    ) -> list[Lease]:
        reply: list[Any] = self._connection.run(
            RECOVER,
            (
                2,
                keys.running(supervisor),
                keys.SUPERVISORS,
                mode,
                self._max_crashes,
                supervisor if dead else "",
                str(self._dead_after),
                self._supervisor,
                format_seconds(time.time()),
                begun,
                stopped,
                len(queues),
                *queues,
                *workers,
            ),
        )
        # recover.lua leaves out ids and queues that are not UTF-8.
        return [Lease(*(part.decode(errors="replace") for part in row)) for row in reply]
