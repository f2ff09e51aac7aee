"""The supervisor: starts horses, watches them, speaks for them to Redis, and runs no task itself."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis.exceptions import RedisError
from rq.command import handle_command
from rq.utils import now

import rqstack.tasks  # noqa: F401 - what every module of tasks imports: once, before a template is forked
from rqstack.discovery import autodiscover
from rqstack.preload import preload
from rqstack.settings import Settings, get_settings
from rqstack.worker.burial import Burial, describe
from rqstack.worker.channel import Channel
from rqstack.worker.child import Children
from rqstack.worker.commands import Commands
from rqstack.worker.limits import Limits
from rqstack.worker.maintenance import Maintenance
from rqstack.worker.recovery import Held, Recovery
from rqstack.worker.reload import CodeWatch, release
from rqstack.worker.scripts import CLAIM, FINISH
from rqstack.worker.slots import Slots
from rqstack.worker.stable import Stable, Stall

if TYPE_CHECKING:
    from rqstack.worker.companion import Companion
    from rqstack.worker.worker import Worker

_TICK = 1.0
"""Seconds after which the supervisor looks at its horses' deadlines."""

OVERRUN = 5.0
"""Seconds past a job's time-out after which its horse is killed: it did not react to the signal."""


class Supervisor:
    """Keeps a horse running for each worker until all are done.

    Args:
        workers: RQ workers, registered already; all listen on the same queues.
        limits: When a horse ends.
        settings: Default: `get_settings()`.
        companions: Processes that are kept running beside the horses.
        commands: Where RQ's commands for the workers come from. Default: listens from here on.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        limits: Limits,
        settings: Settings | None = None,
        companions: Sequence[Companion] = (),
        commands: Commands | None = None,
    ) -> None:
        self._settings = settings = settings or get_settings()
        self._pid = os.getpid()
        self._id = f"{socket.gethostname()}-{self._pid}-{uuid4().hex[:8]}"
        self._slots = Slots(len(workers))
        limits = replace(limits, block=settings.dead_after * 0.6)
        self._children = Children(workers, (self._id, self._pid), self._slots, limits)
        watch = None if limits.burst else CodeWatch(settings)
        self._stable = Stable(workers, self._slots, self._load, self._children.prepare, watch)
        self._workers = workers
        self._log = workers[0].log
        first = workers[0]
        self._channel = Channel(first.connection, 5.0)
        self._recovery = Recovery(
            self._channel,
            self._id,
            hostname=socket.gethostname(),
            queues=first.queue_names(),
            dead_after=settings.dead_after,
            worker_ttl=first.worker_ttl + 60,
            max_crashes=settings.max_crashes,
        )
        self._commands = commands or Commands(workers)
        self._burials: dict[int, int] = {}
        self._stops: list[float] = []
        self._stop_noted = False
        self._put_back_at = float("inf")
        self._beat_at = 0.0
        self._maintain_at = 0.0
        self._in_touch_since: float | None = None
        self._reached_at = 0.0
        self._has_scripts = False
        self._others = 0
        self._maintenance = 0
        self._companions = companions
        self._wakeup, self._wake = os.pipe()

    @property
    def jobs(self) -> int:
        """How many jobs its horses have ended."""
        return sum(self._slots.total(stall.index) for stall in self._stable.stalls)

    def run(self) -> None:
        """Run until all workers are done, or until stopped by SIGTERM or SIGINT.

        The first signal stops warmly: no new claims; what has not ended when the grace is nearly over is put back on
        its queue. A second one, a second later or more, puts back at once.
        """
        previous = self._install_signals()
        # What is there now is shared with all horses: the collector must not write to it. (Collecting first would take
        # longer than the rest of the start, and there is next to nothing to collect.)
        gc.freeze()
        self._stable.open()
        try:
            while True:
                self._tick()
                if self._is_over():
                    break
                ready: list[Any] = [self._wakeup, *self._stable.connections]
                if self._commands.socket is not None:
                    ready.append(self._commands.socket)
                readable, _, _ = select.select(ready, [], [], self._pause())
                if self._wakeup in readable:
                    os.read(self._wakeup, 4096)
            self._leave()
        finally:
            for companion in self._companions:
                companion.stop()
            self._stable.close()
            self._restore_signals(previous)
            os.close(self._wakeup)
            os.close(self._wake)

    # -- the loop

    def _tick(self) -> None:
        self._stable.hear()
        moment = time.monotonic()
        if self._stops:
            self._stop(moment)
        if moment >= self._beat_at:
            self._beat(moment)
        self._listen()
        self._settle()
        if self._in_touch_since is not None:
            self._stable.fork_due(moment)
            self._maintain(moment)
            self._stable.reload(moment)
        self._check_deadlines(moment)
        if not self._stops:
            for companion in self._companions:
                companion.keep_running(moment)

    def _pause(self) -> float:
        """Seconds until something is due."""
        moment = time.monotonic()
        due = [self._beat_at, self._put_back_at, moment + _TICK, *self._stable.next_due()]
        if any(stall.status is not None for stall in self._stable.stalls):
            due.append(moment + 0.1)
        return max(min(due) - moment, 0.0) + 0.001

    def _is_over(self) -> bool:
        if self._stops and time.monotonic() > self._stops[0] + self._settings.grace:
            # Redis is away; whoever comes next finds on record what is left.
            return not any(stall.pid for stall in self._stable.stalls)
        return self._stable.is_empty() and self._stable.is_done()

    # -- horses

    def _load(self) -> list[str]:
        """What a template does first; called in its own process."""
        self._children.release = release(self._settings)
        preload(self._settings)
        return [str(failure) for failure in autodiscover(self._settings).failures]

    def _settle(self) -> None:
        """See to the jobs of horses that have ended, as soon as Redis can be reached."""
        for stall in self._stable.stalls:
            if stall.status is None:
                continue
            if not self._stable.is_done(self._burials.get(stall.index, 0)):
                continue
            try:
                held = self._held(stall)
            except RedisError as error:
                self._log.warning("Worker %s: its job waits until Redis is back: %s", stall.worker.name, error)
                return
            if burials := [job for job in held if job.what == "bury"]:
                stall.failures = 0
                stall.why = stall.why if stall.why != "done" else ""
                for job in burials:
                    self._order_burial(stall, job)
                continue
            done = stall.why == "done" and not held
            stall.status = None
            if held:
                stall.failures = 0
            if done or self._stops:
                stall.retired = True
            if not stall.retired:
                stall.fork_at = time.monotonic() + (min(0.1 * 2**stall.failures, 5.0) if stall.failures else 0.0)

    def _held(self, stall: Stall) -> list[Held]:
        """What a horse that has ended held. It is back on its queue, but for what is to be failed."""
        worker = stall.worker
        stopped = worker._stopped_job_id
        if stopped is not None and self._recovery.holds(worker.name) == stopped:
            return self._recovery.give_back([worker.name], crashed=True, fail=True)
        meant = stall.why == "overrun" or (worker.killed_on_purpose and stopped is None)
        crashed = stall.why != "return" and stopped is None
        held = self._recovery.give_back([worker.name], crashed=crashed, fail=meant)
        for job in held:
            if job.what == "requeued":
                self._log.warning("Worker %s: job %s is back on %s", worker.name, job.job_id, job.queue)
        return held

    def _order_burial(self, stall: Stall, held: Held) -> None:
        """Have the job failed; the next horse comes when that is done."""
        worker = stall.worker
        status = stall.status or 0
        stopped = worker._stopped_job_id == held.job_id
        if stopped:
            reason = "Job stopped by user, work-horse terminated."
        elif stall.why == "overrun":
            reason = "The job went on after its time-out, and did not react to it; its work-horse was killed."
        elif worker.killed_on_purpose:
            reason = f"Work-horse terminated unexpectedly; {describe(status)}; somebody asked for it."
        else:
            reason = (
                f"Work-horse terminated unexpectedly; {describe(status)}; the job has ended its process "
                f"{self._settings.max_crashes} times, so it is not run again. See RQSTACK_MAX_CRASHES."
            )
        worker._stopped_job_id = None
        self._burials[stall.index] = self._stable.send(Burial(held, reason, stopped, status))

    def _bury_for_others(self, held: Sequence[Held]) -> None:
        reason = (
            "Work-horse terminated unexpectedly, with its whole worker; the job has ended its process "
            f"{self._settings.max_crashes} times, so it is not run again. See RQSTACK_MAX_CRASHES."
        )
        for job in held:
            if job.what == "bury":
                self._stable.send(Burial(job, reason))

    def _check_deadlines(self, moment: float) -> None:
        for stall in self._stable.stalls:
            if not stall.pid or stall.why in ("overrun", "return"):
                continue
            deadline = self._slots.deadline(stall.index)
            if deadline and moment > deadline + OVERRUN:
                self._log.warning("Worker %s: the job in hand ignores its time-out", stall.worker.name)
                self._stable.kill(stall, "overrun")
            elif moment >= self._put_back_at:
                self._stable.kill(stall, "return")

    # -- Redis

    def _beat(self, moment: float) -> None:
        settings = self._settings
        names = [stall.worker.name for stall in self._stable.stalls if not (stall.retired and not stall.pid)]
        try:
            beat = self._recovery.beat(names)
            for stall in self._stable.stalls:
                if stall.worker.name in beat.missing:
                    stall.worker.register_again(self._recovery.holds(stall.worker.name))
            if not (beat.known and self._has_scripts):  # Redis is new, was away, or has lost all it had
                # A horse that had to send a script would need half a megabyte more for the rest of its life.
                for script in (CLAIM, FINISH):
                    self._channel.load(script)
                self._has_scripts = True
            reached = time.monotonic()
            # Whoever could not reach Redis for so long, or stood still, finds old heartbeats of others that live.
            gap = max(settings.dead_after - settings.heartbeat, settings.heartbeat * 1.4)
            if self._in_touch_since is None or reached - self._reached_at > gap:
                self._in_touch_since = reached
            self._reached_at = reached
            self._others = beat.others
            # After an outage the others get the time to say that they live.
            if moment - self._in_touch_since >= settings.dead_after:
                for supervisor in beat.dead:
                    if supervisor != self._id:
                        self._take_over(supervisor)
                self._bury_for_others(self._recovery.look_again())
        except RedisError as error:
            self._log.warning("Redis is away (%s); trying again", error)
            self._has_scripts = False
            self._in_touch_since = None if self._in_touch_since is None else moment
            self._beat_at = moment + 0.5
            return
        self._beat_at = moment + settings.heartbeat

    def _take_over(self, supervisor: str) -> None:
        held = self._recovery.take_over(supervisor)
        self._log.warning("Supervisor %s is dead; %d of its jobs were running, and are seen to", supervisor, len(held))
        self._bury_for_others(held)

    def _listen(self) -> None:
        """RQ's commands for the workers: stop-job, kill-horse, shutdown."""
        for worker, payload in self._commands.read():
            stall = next(stall for stall in self._stable.stalls if stall.worker is worker)
            command = payload["command"]
            if command == "shutdown":
                worker.log.info("Worker %s: shutdown was asked for", worker.name)
                worker._shutdown_requested_date = now()
                self._stable.retire(stall)
            elif command == "kill-horse" and not self._slots.busy_since(stall.index):
                worker.log.info("Worker %s is not working, kill horse command ignored", worker.name)
            elif stall.pid:
                with contextlib.suppress(RedisError):
                    handle_command(worker, payload)

    def _maintain(self, moment: float) -> None:
        """Have RQ's registries cleaned, now and then."""
        if moment < self._maintain_at or not self._stable.is_done(self._maintenance) or self._stops:
            return
        # Jobs of workers that are only cut off must not be taken for abandoned: see _beat.
        if self._others and moment - (self._in_touch_since or moment) < self._settings.dead_after:
            return
        worker = self._workers[0]
        self._maintain_at = moment + worker.maintenance_interval
        scheduler = worker.scheduler
        if worker.last_cleaned_at and scheduler and not (scheduler._process and scheduler._process.is_alive()):
            with contextlib.suppress(RedisError):
                scheduler.acquire_locks(auto_start=True)
        worker.last_cleaned_at = now()  # type: ignore[assignment]
        self._maintenance = self._stable.send(Maintenance())

    # -- ending

    def _stop(self, moment: float) -> None:
        if not self._stop_noted:
            self._stop_noted = True
            self._log.info("Stopping: no new jobs; what runs has %d s", self._settings.grace)
            grace = self._settings.grace
            self._put_back_at = self._stops[0] + max(grace - 3, grace * 0.5)
            for stall in self._stable.stalls:
                stall.worker._shutdown_requested_date = now()
                if self._slots.busy_since(stall.index):
                    with contextlib.suppress(RedisError):
                        stall.worker.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
            self._stable.stop()
            self._stable.drop(self._maintenance)
        # RQ: a second signal within a second is the same one, sent to the group and by a parent.
        if self._stops[-1] - self._stops[0] >= 1:
            self._put_back_at = 0.0

    def _leave(self) -> None:
        try:
            self._recovery.give_back([stall.worker.name for stall in self._stable.stalls], crashed=False)
            self._recovery.leave()
        except RedisError as error:
            self._log.warning("Redis is away (%s); the next supervisor gives back what is left", error)
        self._commands.close()
        self._channel.close()

    # -- signals

    def _install_signals(self) -> dict[int, Any]:
        os.set_blocking(self._wake, False)
        wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        handlers: dict[int, Any] = {-1: wakeup}
        for number in (signal.SIGTERM, signal.SIGINT):
            handlers[number] = signal.signal(number, self._note_stop)
        handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _ignore)
        handlers[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note_unknown)
        return handlers

    def _restore_signals(self, previous: dict[int, Any]) -> None:
        signal.set_wakeup_fd(previous.pop(-1))
        for number, handler in previous.items():
            signal.signal(number, handler)

    def _note_stop(self, signum: int, frame: FrameType | None) -> None:
        self._stops.append(time.monotonic())

    def _note_unknown(self, signum: int, frame: FrameType | None) -> None:
        """A horse was told that its supervisor is not on record."""
        self._beat_at = 0.0


def _ignore(signum: int, frame: FrameType | None) -> None:
    """Only to be woken: a child has ended."""
