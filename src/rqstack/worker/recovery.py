"""Signs of life, and what happens to the jobs of those that give none."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rq.utils import now, utcformat

from rqstack.worker.scripts import DEAD, EXECUTION_TTL, HEARTBEAT, RECOVER, SUPERVISORS, running_key, supervisor_key

if TYPE_CHECKING:
    from rqstack.worker.channel import Channel

SECOND_LOOK = 30.0
"""Seconds after which a dead supervisor's claims are looked at once more: longer than any wait in Redis."""


class Beat(NamedTuple):
    """What a heartbeat brings back.

    Args:
        known: Redis had this supervisor on record.
        missing: Workers whose record is gone.
        dead: Supervisors that ended without a word.
        others: How many supervisors there are besides.
    """

    known: bool
    missing: list[str]
    dead: list[str]
    others: int


class Held(NamedTuple):
    """A job that a worker held when it ended.

    Args:
        worker: The worker.
        what: requeued (at the front), or bury (it has ended its process too often: to be failed).
        queue: Its queue.
        job_id: Its id.
        execution: The id of the run that ended.
    """

    worker: str
    what: str
    queue: str
    job_id: str
    execution: str


class Recovery:
    """Keeps a supervisor and its workers on record, and gives back the jobs of the dead.

    Args:
        channel: The connection for it.
        supervisor: The supervisor's id.
        hostname: Its host.
        queues: Names of its queues.
        dead_after: Seconds without a sign of life after which a supervisor is dead.
        worker_ttl: Seconds after which a worker's record expires without one.
        max_crashes: Times a job may end its process.
    """

    def __init__(
        self,
        channel: Channel,
        supervisor: str,
        *,
        hostname: str,
        queues: Sequence[str],
        dead_after: float,
        worker_ttl: int,
        max_crashes: int,
    ) -> None:
        self._channel = channel
        self._supervisor = supervisor
        self._hostname = hostname
        self._queues = list(queues)
        self._dead_after = dead_after
        self._worker_ttl = worker_ttl
        self._max_crashes = max_crashes

    def beat(self, workers: Sequence[str]) -> Beat:
        """Say that this supervisor, its workers and their jobs are alive."""
        keys = (SUPERVISORS, supervisor_key(self._supervisor), running_key(self._supervisor))
        stamp = now()
        known, missing, dead, others = self._channel.run(
            HEARTBEAT,
            (
                len(keys),
                *keys,
                self._supervisor,
                json.dumps(self._queues),
                json.dumps(list(workers)) if workers else "[]",
                self._hostname,
                utcformat(stamp),
                f"{stamp.timestamp():.6f}",
                self._worker_ttl,
                EXECUTION_TTL,
                str(self._dead_after),
            ),
        )
        return Beat(bool(known), [name.decode() for name in missing], [name.decode() for name in dead], others)

    def give_back(self, workers: Sequence[str], *, crashed: bool, fail: bool = False) -> list[Held]:
        """Put back what workers of one's own hold, whose horses have ended.

        Args:
            workers: Their names.
            crashed: It counts against the job that it was running.
            fail: A running job is not put back but comes as `bury`.
        """
        mode = "fail" if fail else "crash" if crashed else "return"
        return self._recover(self._supervisor, self._queues, workers, mode, dead=False)

    def holds(self, worker: str) -> str | None:
        """The id of the job that one of one's own workers is on record as running."""
        lease = self._channel.call("HGET", running_key(self._supervisor), worker)
        if lease is None or lease.startswith(b"="):
            return None
        return str(lease.decode().rpartition("\n")[2].partition(":")[0])

    def take_over(self, supervisor: str) -> list[Held]:
        """Put back what the workers of a dead supervisor hold, and forget them."""
        # On the list first: if we die in between, what is left is found at the second look.
        self._channel.call("ZADD", DEAD, f"{time.time():.3f}", supervisor)
        return self._recover_dead(supervisor)

    def look_again(self) -> list[Held]:
        """Put back what Redis moved to a dead supervisor's workers after they were forgotten.

        A connection that was cut off may still stand in Redis's line for jobs, for as long as one wait takes.
        """
        held: list[Held] = []
        late = f"{time.time() - SECOND_LOOK:.3f}"
        for name in self._channel.call("ZRANGEBYSCORE", DEAD, "-inf", late):
            supervisor = name.decode()
            found = self._recover_dead(supervisor, again=True)
            held += found
            if any(job.what == "bury" for job in found):
                self._channel.call("ZADD", DEAD, f"{time.time():.3f}", supervisor)
                continue
            if self._channel.call("ZSCORE", SUPERVISORS, supervisor) is None:
                self._channel.call("DEL", supervisor_key(supervisor), running_key(supervisor))
            self._channel.call("ZREM", DEAD, supervisor)
        return held

    def leave(self) -> None:
        """Take this supervisor off the record: it has given everything back."""
        self._channel.call("ZREM", SUPERVISORS, self._supervisor)
        self._channel.call("DEL", supervisor_key(self._supervisor), running_key(self._supervisor))

    def _recover_dead(self, supervisor: str, *, again: bool = False) -> list[Held]:
        raw = self._channel.call("HMGET", supervisor_key(supervisor), "queues", "workers")
        if raw[0] is None:
            self._channel.call("ZREM", SUPERVISORS, supervisor)
            return []
        return self._recover(
            supervisor, json.loads(raw[0]), json.loads(raw[1]), "again" if again else "crash", dead=True
        )

    def _recover(
        self,
        supervisor: str,
        queues: Sequence[str],
        workers: Sequence[str],
        mode: str,
        *,
        dead: bool,
    ) -> list[Held]:
        reply: list[Any] = self._channel.run(
            RECOVER,
            (
                2,
                running_key(supervisor),
                SUPERVISORS,
                mode,
                self._max_crashes,
                supervisor if dead else "",
                str(self._dead_after),
                self._supervisor,
                len(queues),
                *queues,
                *workers,
            ),
        )
        return [Held(*(part.decode() for part in row)) for row in reply]
