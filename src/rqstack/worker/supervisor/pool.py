"""The pool of a supervisor's horses: starts and replaces horses, and the forkservers that fork them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rqstack.errors import SettingsError
from rqstack.processes.exit_status import describe, likely_cause
from rqstack.processes.parent import wait_for_end
from rqstack.worker.horse.abandoned import AbandonedJob
from rqstack.worker.limits import DONE, RECYCLE, RETRY
from rqstack.worker.supervisor.forkserver import Died, Forked, Forkserver, Load, Order, Prepare, Ready

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.scoreboard import Scoreboard
    from rqstack.worker.supervisor.reload import CodeWatch

log = logging.getLogger("rq.worker")

_CODE_CHECK_INTERVAL = 1.0
"""Seconds between two checks for new task code."""

_SIDE_JOBS = 4
"""Side jobs that run at once: hostile leases could ask for thousands."""

_RESTART_DELAY = 1.0
"""Seconds until a forkserver that ended while it imported the tasks is replaced."""


@dataclass(slots=True)
class HorseSlot:
    """The place of a horse in the pool; the horse may be replaced.

    Args:
        worker: Its RQ worker, which keeps its name and record when the horse is replaced.
        index: Its place in the pool and on the scoreboard.
        pid: The horse's process; 0 if there is none.
        started_at: Monotonic time of its start.
        fork_at: Monotonic time at which the next horse is due; None if none is.
        retired: No further horse is started.
        status: The wait status of a horse whose job is not settled yet; None otherwise.
        why: Why the horse ends: "" (the supervisor does not know), done, overrun, return or replace.
        forkserver: The forkserver of its horse.
        failures: Horses in a row that ended within a second.
        blocked: Redis's id of the connection on which a horse waited for a job when it ended; 0 if it did not.
    """

    worker: BaseWorker
    index: int
    pid: int = 0
    started_at: float = 0.0
    fork_at: float | None = 0.0
    retired: bool = False
    status: int | None = None
    why: str = ""
    forkserver: Forkserver | None = None
    failures: int = 0
    blocked: int = 0


class HorsePool:
    """Starts horses and side jobs, and notes their end. It does not talk to Redis.

    Args:
        workers: The RQ workers, one per horse.
        scoreboard: What horses write about themselves.
        load: Imports the tasks; called in each forkserver.
        prepare: Prepares a horse or a side job; called in each forkserver.
        watch: Detects new task code; None to keep what was loaded first.
    """

    def __init__(
        self,
        workers: Sequence[BaseWorker],
        scoreboard: Scoreboard,
        load: Load,
        prepare: Prepare,
        watch: CodeWatch | None,
    ) -> None:
        self.slots = [HorseSlot(worker, index) for index, worker in enumerate(workers)]
        self.stopping = False
        self._scoreboard = scoreboard
        self._load = load
        self._prepare = prepare
        self._watch = watch
        self._check_code_at = 0.0
        self._restart_at = 0.0
        self.code = ""
        """The version of the task code that horses have loaded, or will; "" where nobody watches it."""
        self._next_code = ""
        self._forkserver: Forkserver
        self._next: Forkserver | None = None
        self._former: list[Forkserver] = []
        self._side_jobs: dict[int, Any] = {}
        self._sent: set[int] = set()
        self._last_side_job = 0

    def open(self) -> None:
        """Start the first forkserver."""
        if self._watch is not None:
            self.code = self._watch.version
        self._forkserver = Forkserver(self._load, self._prepare)

    def close(self) -> None:
        """Kill all that is left."""
        for forkserver in self._forkservers():
            forkserver.kill()

    @property
    def ready(self) -> bool:
        """Whether horses can be forked."""
        return self._forkserver.ready and self._forkserver.pid != 0

    @property
    def connections(self) -> list[Any]:
        """The connections that become readable when `read_messages` has something to read."""
        return [forkserver.connection for forkserver in self._forkservers() if forkserver.pid]

    def is_empty(self) -> bool:
        """Whether no horse lives, or will."""
        return all(slot.retired and not slot.pid and slot.status is None for slot in self.slots)

    def retire(self, slot: HorseSlot) -> None:
        """End a horse after its running job, and start none in its place."""
        slot.retired = True
        if slot.pid:
            _signal(slot.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End all horses after their running jobs, and start no more."""
        self.stopping = True
        for slot in self.slots:
            if slot.pid:
                _signal(slot.pid, signal.SIGTERM)
            elif slot.status is None and slot.fork_at is not None:
                slot.retired = True
            slot.fork_at = None

    def kill(self, slot: HorseSlot, why: str) -> None:
        """Kill a horse, and what its job has started; `why` is overrun or return."""
        slot.why = why
        _kill(slot.pid)

    def start_side_job(self, side_job: Any) -> int:
        """Do something in a process of its own that has imported the tasks. Returns its number, for `is_done`."""
        for number, known in self._side_jobs.items():
            if isinstance(known, AbandonedJob) and isinstance(side_job, AbandonedJob) and known.lease == side_job.lease:
                return number
        self._last_side_job -= 1
        self._side_jobs[self._last_side_job] = side_job
        return self._last_side_job

    def drop_side_job(self, side_job: int) -> None:
        """Stop waiting for a side job."""
        self._side_jobs.pop(side_job, None)

    def is_done(self, side_job: int | None = None) -> bool:
        """Whether a side job, or every one, is done."""
        return side_job not in self._side_jobs if side_job is not None else not self._side_jobs

    def fork_due(self, moment: float) -> None:
        """Start the horses and side jobs that are due; `moment` is monotonic time."""
        if not self._forkserver.pid and moment >= self._restart_at:
            self.open()
        if not self.ready:
            return
        waiting = [side_job for side_job in self._side_jobs if side_job not in self._sent]
        orders = [Order(each, self._side_jobs[each]) for each in waiting[: max(_SIDE_JOBS - len(self._sent), 0)]]
        self._sent.update(order.slot for order in orders)
        for slot in self.slots:
            if slot.fork_at is not None and moment >= slot.fork_at and not slot.retired and slot.status is None:
                slot.fork_at = None
                self._note_fork(slot)
                orders.append(Order(slot.index))
        if orders:
            self._forkserver.fork(orders)

    def next_due(self) -> Iterator[float]:
        """The monotonic times at which horses are due."""
        if self.ready:
            for slot in self.slots:
                if slot.fork_at is not None and not slot.retired and slot.status is None:
                    yield slot.fork_at

    def reload(self, moment: float) -> None:
        """Check for new task code, and load it beside the old; `moment` is monotonic time."""
        if moment < self._check_code_at or self.stopping or self._watch is None:
            return
        self._check_code_at = moment + _CODE_CHECK_INTERVAL
        if self._watch.has_changed():
            if self._next is not None:
                self._next.kill()
            self._next_code = self._watch.version
            self._next = Forkserver(self._load, self._prepare)

    def read_messages(self) -> None:
        """Read what the forkservers report: what they have loaded, which horses have started or ended.

        Raises:
            SettingsError: The tasks cannot be loaded at all, at the start.
        """
        for forkserver in self._forkservers():
            if not forkserver.pid:
                continue
            for message in forkserver.messages():
                if isinstance(message, Forked):
                    self._note_start(message)
                elif isinstance(message, Died) and message.slot < 0:
                    self._note_side_job_exit(message.slot, message.status)
                elif isinstance(message, Died):
                    if self.slots[message.slot].pid == message.pid:
                        self._note_exit(self.slots[message.slot], message.status)
                elif isinstance(message, Ready):
                    self._note_ready(forkserver, message)
                elif forkserver is self._next:
                    self._refuse(message.reason)
                else:
                    raise SettingsError(message.reason)
            if forkserver.has_ended():
                self._note_forkserver_exit(forkserver)
        self._former = [forkserver for forkserver in self._former if forkserver.pid]

    def _note_start(self, message: Forked) -> None:
        if message.slot < 0:
            return
        slot = self.slots[message.slot]
        slot.pid = slot.worker._horse_pid = message.pid
        if self.stopping or slot.retired:
            _signal(message.pid, signal.SIGTERM)
        elif slot.forkserver is not self._forkserver:
            slot.why = "replace"
            _signal(message.pid, signal.SIGTERM)

    def _note_ready(self, forkserver: Forkserver, message: Ready) -> None:
        if forkserver is not self._next:
            # At the start a module that does not import stops only the tasks that it would have declared.
            forkserver.ready = True
            return
        if message.failures:
            self._refuse("; ".join(message.failures))
            return
        log.info("The task code has changed: horses are replaced as they end their jobs")
        self._former.append(self._forkserver)
        self._forkserver, self._next = forkserver, None
        self.code = self._next_code
        forkserver.ready = True
        for slot in self.slots:
            if slot.pid and not slot.why:
                slot.why = "replace"
                _signal(slot.pid, signal.SIGTERM)
        for former in self._former:
            former.end()

    def _refuse(self, reason: str) -> None:
        log.error("The new task code is rejected and the old code stays: %s", reason)
        if self._next is not None:
            self._next.kill()
            self._next = None

    def _note_forkserver_exit(self, forkserver: Forkserver) -> None:
        """Its horses end with it."""
        if forkserver is self._next:
            self._next = None
        for slot in self.slots:
            if slot.forkserver is forkserver and (slot.pid or slot.fork_at is None) and slot.status is None:
                if slot.pid:
                    wait_for_end(slot.pid)
                    self._note_exit(slot, signal.SIGKILL)
                elif self.stopping:
                    slot.retired = True
                elif not slot.retired:
                    slot.fork_at = time.monotonic()
        if forkserver is self._forkserver:
            self._sent.clear()
            if forkserver.ready:
                log.error("The forkserver has ended; another is started")
                self.open()
            else:
                log.error(
                    "The forkserver has ended while it imported the tasks; another is started in %d s", _RESTART_DELAY
                )
                self._restart_at = time.monotonic() + _RESTART_DELAY

    def _note_fork(self, slot: HorseSlot) -> None:
        self._scoreboard.clear(slot.index)
        slot.worker.killed_on_purpose = False
        slot.worker._stopped_job_id = None  # of a job that ended before it could be stopped
        slot.why = ""
        slot.forkserver = self._forkserver
        slot.started_at = time.monotonic()

    def _note_exit(self, slot: HorseSlot, status: int) -> None:
        jobs = self._scoreboard.jobs(slot.index)
        self._scoreboard.add_total(slot.index, jobs)
        self._scoreboard.end(slot.index, 0)
        slot.blocked, _ = self._scoreboard.waiting(slot.index)
        self._scoreboard.leave(slot.index)
        moment = time.monotonic()
        slot.failures = slot.failures + 1 if moment - slot.started_at < 1 and not jobs else 0
        _kill(slot.pid)  # what its job has started
        slot.pid = slot.worker._horse_pid = 0
        slot.status = status
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (DONE, RECYCLE):
            # A job may end its process with these codes too, so the lease decides.
            if os.WEXITSTATUS(status) == DONE and not slot.why and not slot.worker.killed_on_purpose:
                slot.why = "done"
        else:
            on_purpose = bool(slot.why) or slot.worker.killed_on_purpose
            cause = "" if on_purpose else likely_cause(status)
            log.warning("Worker %s: the horse has ended: %s%s", slot.worker.name, describe(status), cause)

    def _note_side_job_exit(self, side_job: int, status: int) -> None:
        self._sent.discard(side_job)
        if status == 0:
            self._side_jobs.pop(side_job, None)
        elif os.WIFEXITED(status) and os.WEXITSTATUS(status) == RETRY:
            return
        elif isinstance(job := self._side_jobs.get(side_job), AbandonedJob):
            # Users' code has ended it; the job must be settled all the same.
            self._side_jobs[side_job] = job._replace(is_notified=True)

    def _forkservers(self) -> list[Forkserver]:
        return [forkserver for forkserver in (self._forkserver, self._next, *self._former) if forkserver is not None]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
