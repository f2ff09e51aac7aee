"""Child processes of a forkserver: a horse or a side job. Prepared in the forkserver, run in the child.

A page of memory that a child writes to is copied, and CPython writes to every object that it uses, since it counts
references in the objects. So as much as possible is done before the fork: a horse that is made and connected by its
forkserver has half as much memory of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from rqstack.worker.horse.abandoned import AbandonedJob, fail_abandoned
from rqstack.worker.horse.horse import Horse
from rqstack.worker.horse.maintenance import Maintenance, maintain
from rqstack.worker.limits import RETRY, Limits

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.batch_board import BatchBoard
    from rqstack.worker.scoreboard import Scoreboard

_PATIENCE = 5.0
"""Seconds for which horses connect by themselves, after the forkserver could not."""


class ChildFactory:
    """Prepares the children of a supervisor's forkservers.

    Args:
        workers: The RQ workers, one per horse.
        supervisor: The id of the supervisor, and its process.
        boards: Where the horses report to the supervisor.
        limits: When a horse ends.
    """

    def __init__(
        self,
        workers: Sequence[BaseWorker],
        supervisor: tuple[str, int],
        boards: tuple[Scoreboard, BatchBoard],
        limits: Limits,
    ) -> None:
        self.release = ""
        """The name of the task code that the forkserver has loaded; "" for none."""
        self._workers = workers
        self._supervisor = supervisor
        self._boards = boards
        self._limits = limits
        self._connect_at = 0.0

    def prepare(self, index: int, side_job: AbandonedJob | Maintenance | None) -> Child:
        """Prepare a child that is to be forked.

        Args:
            index: The horse's slot; below 0 for a side job.
            side_job: What to do instead of a horse's work.
        """
        worker = self._workers[max(index, 0)]
        if side_job is not None:
            return Child(worker, side_job)
        horse = Horse(worker, self._supervisor, *self._boards, index, self._limits, self.release)
        if time.monotonic() >= self._connect_at:
            try:
                horse.open()
            except RedisError:
                self._connect_at = time.monotonic() + _PATIENCE
        return Child(worker, horse)


class Child:
    """A child, prepared but not forked yet.

    Args:
        worker: The RQ worker that it represents.
        work: The horse, or the side job.
    """

    def __init__(self, worker: BaseWorker, work: Horse | AbandonedJob | Maintenance) -> None:
        self._worker = worker
        self._work = work

    def run(self) -> int:
        """Do the work, in the child. Returns the exit code."""
        worker, work = self._worker, self._work
        try:
            worker._is_horse, worker._horse_pid = True, 0
            os.environ["RQ_WORKER_ID"] = worker.name
            if isinstance(work, Horse):
                return work.run()
            _reset_signals()
            return maintain(worker) if isinstance(work, Maintenance) else 0 if fail_abandoned(worker, work) else RETRY
        except BaseException:
            worker.log.exception("Worker %s: the horse has failed", worker.name)
            raise

    def close_copy(self) -> None:
        """In every other process: close the copies of what the child has open."""
        if isinstance(self._work, Horse):
            self._work.close_copy()


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
