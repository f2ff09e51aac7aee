"""RQ's worker record and the behaviour that rqstack changes. Horses and supervisors use it."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from rq import Worker as RqWorker

from rqstack.security import for_jobs
from rqstack.security.rq_records import guard_rq
from rqstack.transport import keys
from rqstack.transport.damaged import drop_wrong_types
from rqstack.transport.rq_version import check_rq_version

check_rq_version()
guard_rq()


class BaseWorker(RqWorker):
    """RQ's worker, one for each horse. It does not run by itself: see `rqstack.worker.worker.Worker`."""

    work_strategy: str = "default"
    """The order of queues: default (as given), round_robin or random."""

    killed_on_purpose: bool = False
    """Whether the horse was killed by a command, so that the job fails at once instead of running again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.serializer = for_jobs(self.serializer)

    def drop_damage(self) -> None:
        """Drop the keys of this worker's record that are of another type: RQ's commands would fail on them.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        types = {
            self.key: "hash",
            f"{self.key}{keys.WORKER_EXECUTIONS}": "set",
            keys.WORKERS: "set",
            keys.QUEUES: "set",
        }
        types |= dict.fromkeys((f"{keys.QUEUE_WORKERS}{name}" for name in self.queue_names()), "set")
        drop_wrong_types(self.connection, types)

    def register_birth(self) -> None:
        """As RQ's, whatever is in Redis."""
        self.drop_damage()
        super().register_birth()  # type: ignore[no-untyped-call]

    def register_again(self, *, busy: bool) -> None:
        """Write this worker's record again, where it was lost while the worker lives (RQ never does: rq#469).

        Args:
            busy: It runs a job. (The heartbeat script writes which.)
        """
        birth = self.birth_date
        with contextlib.suppress(ValueError):
            self.register_birth()
        if birth is not None:
            self.birth_date = birth
        # Unless the horse was faster.
        self.connection.hsetnx(self.key, "state", "busy" if busy else "idle")

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Kill the horse and what it has started. The supervisor then fails its job, as RQ does."""
        self.killed_on_purpose = True
        super().kill_horse(sig)

    def procline(self, message: str) -> None:
        """The title of the process; not once per job, which would cost more than a short job."""
