"""The stable: a supervisor's horses, the templates that they are forked from, and the change of both for new code."""

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
from rqstack.worker.burial import describe
from rqstack.worker.limits import DONE, RECYCLE
from rqstack.worker.parent import wait_for_end
from rqstack.worker.template import Died, Forked, Load, Order, Prepare, Ready, Template

if TYPE_CHECKING:
    from rqstack.worker.reload import CodeWatch
    from rqstack.worker.slots import Slots
    from rqstack.worker.worker import Worker

log = logging.getLogger("rq.worker")

_LOOK = 1.0
"""Seconds between two looks at the task code."""

_AGAIN = 1.0
"""Seconds until a template that has died while it loaded the tasks is started again."""


@dataclass(slots=True)
class Stall:
    """A horse's place.

    Args:
        worker: Its RQ worker; it keeps name and record when the horse is replaced.
        index: Its slot.
        pid: The horse's process; 0 if there is none.
        born: Monotonic time of its start.
        fork_at: Monotonic time at which the next horse is due; None if none is.
        retired: No more horses.
        status: The wait status of a horse whose job is not settled yet; None otherwise.
        why: Why it ends: "" (the supervisor does not know), done, overrun, return or replace.
        template: Where its horse came from.
        failures: Horses that ended at once, one after the other.
    """

    worker: Worker
    index: int
    pid: int = 0
    born: float = 0.0
    fork_at: float | None = 0.0
    retired: bool = False
    status: int | None = None
    why: str = ""
    template: Template | None = None
    failures: int = 0


class Stable:
    """Starts horses, and notes their end. It does not know Redis.

    Args:
        workers: The RQ workers, one a horse.
        slots: What horses write about themselves.
        load: Imports the tasks; called in each template.
        prepare: Makes a horse, or (with an index below 0) who is sent on an errand; called in each template.
        watch: Tells when the task code has changed; None to keep what was loaded first.
    """

    def __init__(
        self, workers: Sequence[Worker], slots: Slots, load: Load, prepare: Prepare, watch: CodeWatch | None
    ) -> None:
        self.stalls = [Stall(worker, index) for index, worker in enumerate(workers)]
        self.stopping = False
        self._slots = slots
        self._load = load
        self._prepare = prepare
        self._watch = watch
        self._look_at = 0.0
        self._open_at = 0.0
        self._template: Template
        self._next: Template | None = None
        self._former: list[Template] = []
        self._errands: dict[int, Any] = {}
        self._sent: set[int] = set()
        self._last_errand = 0

    def open(self) -> None:
        """Start the first template."""
        self._template = Template(self._load, self._prepare)

    def close(self) -> None:
        """Kill all that is left."""
        for template in self._templates():
            template.kill()

    @property
    def ready(self) -> bool:
        """Whether horses can be forked."""
        return self._template.ready and self._template.pid != 0

    @property
    def connections(self) -> list[Any]:
        """What can be read when there is something to `hear`."""
        return [template.connection for template in self._templates() if template.pid]

    def is_empty(self) -> bool:
        """Whether no horse lives, or will."""
        return all(stall.retired and not stall.pid and stall.status is None for stall in self.stalls)

    def retire(self, stall: Stall) -> None:
        """End a horse after the job in hand, and start none in its place."""
        stall.retired = True
        if stall.pid:
            _signal(stall.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End all horses after the job in hand, and start no more."""
        self.stopping = True
        for stall in self.stalls:
            if stall.pid:
                _signal(stall.pid, signal.SIGTERM)
            elif stall.status is None and stall.fork_at is not None:
                stall.retired = True
            stall.fork_at = None

    def kill(self, stall: Stall, why: str) -> None:
        """Kill a horse, and what its job has started; `why` is overrun or return."""
        stall.why = why
        _kill(stall.pid)

    def send(self, errand: Any) -> int:
        """Have something done in a process of its own, that has the tasks. Returns its number, for `is_done`."""
        self._last_errand -= 1
        self._errands[self._last_errand] = errand
        return self._last_errand

    def drop(self, errand: int) -> None:
        """Wait for an errand no more."""
        self._errands.pop(errand, None)

    def is_done(self, errand: int | None = None) -> bool:
        """Whether an errand, or every one, has been done."""
        return errand not in self._errands if errand is not None else not self._errands

    def fork_due(self, moment: float) -> None:
        """Start the horses and errands that are due; `moment` is monotonic time."""
        if not self._template.pid and moment >= self._open_at:
            self.open()
        if not self.ready:
            return
        orders = [Order(errand, self._errands[errand]) for errand in self._errands.keys() - self._sent]
        self._sent.update(self._errands)
        for stall in self.stalls:
            if stall.fork_at is not None and moment >= stall.fork_at and not stall.retired and stall.status is None:
                stall.fork_at = None
                self._note_fork(stall)
                orders.append(Order(stall.index))
        if orders:
            self._template.fork(orders)

    def next_due(self) -> Iterator[float]:
        """The monotonic times at which horses are due."""
        if self.ready:
            for stall in self.stalls:
                if stall.fork_at is not None and not stall.retired and stall.status is None:
                    yield stall.fork_at

    def reload(self, moment: float) -> None:
        """Look for new task code, and load it beside the old."""
        if moment < self._look_at or self.stopping or self._watch is None:
            return
        self._look_at = moment + _LOOK
        if self._watch.has_changed():
            if self._next is not None:
                self._next.kill()
            self._next = Template(self._load, self._prepare)

    def hear(self) -> None:
        """What the templates have to say: who was born, who has died.

        Raises:
            SettingsError: The tasks cannot be loaded at all, at the start.
        """
        for template in self._templates():
            if not template.pid:
                continue
            for message in template.messages():
                if isinstance(message, Forked):
                    self._note_birth(message)
                elif isinstance(message, Died) and message.slot < 0:
                    self._note_errand(message.slot, message.status)
                elif isinstance(message, Died):
                    if self.stalls[message.slot].pid == message.pid:
                        self._note_death(self.stalls[message.slot], message.status)
                elif isinstance(message, Ready):
                    self._note_ready(template, message)
                elif template is self._next:
                    self._refuse(message.reason)
                else:
                    raise SettingsError(message.reason)
            if template.has_ended():
                self._note_template_end(template)
        self._former = [template for template in self._former if template.pid]

    def _note_birth(self, message: Forked) -> None:
        if message.slot < 0:
            return
        stall = self.stalls[message.slot]
        stall.pid = stall.worker._horse_pid = message.pid
        if self.stopping or stall.retired:
            _signal(message.pid, signal.SIGTERM)
        elif stall.template is not self._template:
            stall.why = "replace"
            _signal(message.pid, signal.SIGTERM)

    def _note_ready(self, template: Template, message: Ready) -> None:
        if template is not self._next:
            # At the start a module that does not import stops only the tasks that it would have declared.
            template.ready = True
            return
        if message.failures:
            self._refuse("; ".join(message.failures))
            return
        log.info("The task code has changed: horses are replaced as they end their jobs")
        self._former.append(self._template)
        self._template, self._next = template, None
        template.ready = True
        for stall in self.stalls:
            if stall.pid and not stall.why:
                stall.why = "replace"
                _signal(stall.pid, signal.SIGTERM)
        for former in self._former:
            former.end()

    def _refuse(self, reason: str) -> None:
        log.error("The new task code is refused, and the code before goes on: %s", reason)
        if self._next is not None:
            self._next.kill()
            self._next = None

    def _note_template_end(self, template: Template) -> None:
        """Its horses end with it."""
        if template is self._next:
            self._next = None
        for stall in self.stalls:
            if stall.template is template and (stall.pid or stall.fork_at is None) and stall.status is None:
                if stall.pid:
                    wait_for_end(stall.pid)
                    self._note_death(stall, signal.SIGKILL)
                elif self.stopping:
                    stall.retired = True
                elif not stall.retired:
                    stall.fork_at = time.monotonic()
        if template is self._template:
            self._sent.clear()
            if template.ready:
                log.error("The template process has ended; another is started")
                self.open()
            else:
                log.error("The process has ended that imports the tasks; it is tried again in %d s", _AGAIN)
                self._open_at = time.monotonic() + _AGAIN

    def _note_fork(self, stall: Stall) -> None:
        self._slots.clear(stall.index)
        stall.worker.killed_on_purpose = False
        stall.worker._stopped_job_id = None  # of a job that ended before it could be stopped
        stall.why = ""
        stall.template = self._template
        stall.born = time.monotonic()

    def _note_death(self, stall: Stall, status: int) -> None:
        jobs = self._slots.jobs(stall.index)
        self._slots.add_total(stall.index, jobs)
        self._slots.end(stall.index, 0)
        moment = time.monotonic()
        stall.failures = stall.failures + 1 if moment - stall.born < 1 and not jobs else 0
        _kill(stall.pid)  # what its job has started
        stall.pid = stall.worker._horse_pid = 0
        stall.status = status
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (DONE, RECYCLE):
            # A job may end the process with any code; whether it did is decided by what is on record.
            if os.WEXITSTATUS(status) == DONE and not stall.why and not stall.worker.killed_on_purpose:
                stall.why = "done"
        else:
            log.warning("Worker %s: the horse has ended: %s", stall.worker.name, describe(status))

    def _note_errand(self, errand: int, status: int) -> None:
        self._sent.discard(errand)
        if status == 0:
            self._errands.pop(errand, None)

    def _templates(self) -> list[Template]:
        return [template for template in (self._template, self._next, *self._former) if template is not None]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
