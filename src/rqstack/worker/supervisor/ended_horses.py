"""Settles the jobs of horses that have ended: puts them back on their queues, or fails them in a side job."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from rqstack.processes.exit_status import describe, likely_cause
from rqstack.worker.horse.abandoned import AbandonedJob, failure_reason

if TYPE_CHECKING:
    from rqstack.worker.lease import Lease
    from rqstack.worker.scoreboard import Scoreboard
    from rqstack.worker.supervisor.batches import BatchWatch
    from rqstack.worker.supervisor.pool import HorsePool, HorseSlot
    from rqstack.worker.supervisor.recovery import Recovery

log = logging.getLogger("rq.worker")


class EndedHorses:
    """Settles the jobs of a pool's horses that have ended; then the next horse of the slot may start.

    Args:
        pool: The horses.
        scoreboard: What they reported.
        recovery: Puts their jobs back.
        batches: What is known of their batches.
        max_crashes: Times a job may end its process.
    """

    def __init__(
        self, pool: HorsePool, scoreboard: Scoreboard, recovery: Recovery, batches: BatchWatch, max_crashes: int
    ) -> None:
        self._pool = pool
        self._scoreboard = scoreboard
        self._recovery = recovery
        self._batches = batches
        self._max_crashes = max_crashes
        self._abandoned: dict[int, int] = {}  # slot -> the side job that fails its job

    def settle(self, *, stopping: bool) -> None:
        """Put back or fail their jobs, as soon as Redis can be reached.

        Args:
            stopping: No further horse is started.
        """
        for slot in self._pool.slots:
            if slot.status is None or not self._pool.is_done(self._abandoned.get(slot.index, 0)):
                continue
            try:
                leases = self._put_back(slot)
            except RedisError as error:
                log.warning(
                    "Worker %s: Redis is unavailable, so its job cannot be put back yet: %s", slot.worker.name, error
                )
                return
            if abandoned := [lease for lease in leases if lease.action == "abandon"]:
                slot.failures = 0
                slot.why = slot.why if slot.why != "done" else ""
                for lease in abandoned:
                    self._abandon(slot, lease)
                continue
            done = slot.why == "done" and not leases
            slot.status = None
            if leases:
                slot.failures = 0
            if done or stopping:
                slot.retired = True
            if not slot.retired:
                slot.fork_at = time.monotonic() + (min(0.1 * 2**slot.failures, 5.0) if slot.failures else 0.0)

    def _put_back(self, slot: HorseSlot) -> list[Lease]:
        """Put back what a horse that has ended held. Returns its leases, also of jobs that are to be abandoned."""
        worker = slot.worker
        if slot.blocked:
            self._recovery.end_wait(slot.blocked)
            slot.blocked = 0
        stopped = worker._stopped_job_id
        execution = "" if stopped is None else self._execution(worker.name, stopped)
        self._batches.settle_ended(slot.index, keep=execution)
        is_overdue_or_killed = slot.why == "overrun" or (worker.killed_on_purpose and stopped is None)
        crashed = slot.why != "return" and stopped is None
        begun = self._scoreboard.execution(slot.index)
        leases = self._recovery.put_back(
            [worker.name], crashed=crashed, fail=is_overdue_or_killed, begun=begun, stopped=execution
        )
        for lease in leases:
            if lease.action == "requeued":
                log.warning("Worker %s: job %s is back on %s", worker.name, lease.job_id, lease.queue)
        return leases

    def _execution(self, worker: str, job_id: str) -> str:
        """The execution of a job that the worker still holds; "" if it has ended."""
        return next((execution for _, held, execution in self._recovery.jobs(worker) if held == job_id), "")

    def _abandon(self, slot: HorseSlot, lease: Lease) -> None:
        """Fail the job in a side job; the next horse starts when that is done."""
        worker = slot.worker
        status = slot.status or 0
        stopped = worker._stopped_job_id == lease.job_id
        reason = failure_reason(
            describe(status),
            self._max_crashes,
            cause=likely_cause(status),
            stopped=stopped,
            ignored_timeout=slot.why == "overrun",
            killed_by_command=worker.killed_on_purpose,
        )
        worker._stopped_job_id = None
        self._abandoned[slot.index] = self._pool.start_side_job(AbandonedJob(lease, reason, stopped, status))
