"""What a template's children do: a horse's work, or an errand. Prepared in the template, done in the child.

A page of memory that a child writes to is its own from then on, and CPython writes to all that it looks at, since it
counts references in the objects. So whatever can be done before the fork is: a horse that is made and connected by its
template has half as much memory of its own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from rqstack.worker.burial import Burial, bury
from rqstack.worker.horse import Horse
from rqstack.worker.limits import Limits
from rqstack.worker.maintenance import Maintenance, maintain

if TYPE_CHECKING:
    from rqstack.worker.slots import Slots
    from rqstack.worker.worker import Worker

_PATIENCE = 5.0
"""Seconds for which horses connect by themselves, after the template could not."""


class Children:
    """Prepares the children of a supervisor's templates.

    Args:
        workers: The RQ workers, one a horse.
        supervisor: The id of the supervisor, and its process.
        slots: Where the supervisor looks.
        limits: When a horse ends.
    """

    def __init__(self, workers: Sequence[Worker], supervisor: tuple[str, int], slots: Slots, limits: Limits) -> None:
        self.release = ""
        """The name of the task code that the template has loaded; "" for none."""
        self._workers = workers
        self._supervisor = supervisor
        self._slots = slots
        self._limits = limits
        self._connect_at = 0.0

    def prepare(self, index: int, errand: Burial | Maintenance | None) -> Child:
        """A child that is to be forked.

        Args:
            index: The horse's; or, below 0, the errand's.
            errand: What to do, in place of a horse's work.
        """
        worker = self._workers[max(index, 0)]
        if errand is not None:
            return Child(worker, errand)
        horse = Horse(worker, self._supervisor, self._slots, index, self._limits, self.release)
        if time.monotonic() >= self._connect_at:
            try:
                horse.open()
            except RedisError:
                self._connect_at = time.monotonic() + _PATIENCE
        return Child(worker, horse)


class Child:
    """A process to be.

    Args:
        worker: The RQ worker that it is to the outside.
        work: The horse, or the errand.
    """

    def __init__(self, worker: Worker, work: Horse | Burial | Maintenance) -> None:
        self._worker = worker
        self._work = work

    def run(self) -> int:
        """Do it, in the child. Returns the exit code."""
        worker, work = self._worker, self._work
        try:
            worker._is_horse, worker._horse_pid = True, 0
            os.environ["RQ_WORKER_ID"] = worker.name
            if isinstance(work, Horse):
                return work.run()
            _reset_signals()
            return maintain(worker) if isinstance(work, Maintenance) else 0 if bury(worker, work) else 1
        except BaseException:
            worker.log.exception("Worker %s: the horse has failed", worker.name)
            raise

    def leave(self) -> None:
        """Close what is the child's alone, in any other process."""
        if isinstance(self._work, Horse):
            self._work.leave()


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
