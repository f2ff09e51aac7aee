"""The supervisor: the loop that starts and watches horses, obeys commands and signals. It runs no task itself."""

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
from rq.executions import Execution
from rq.utils import now

import rqstack.tasks  # noqa: F401 - what every module of tasks imports: once, before a forkserver is forked
from rqstack.errors import IncompatibleSchema
from rqstack.processes.liveness import WORKER, Liveness
from rqstack.registry.code_version import release_name
from rqstack.registry.discovery import autodiscover
from rqstack.registry.preload import preload
from rqstack.settings import Settings, get_settings
from rqstack.transport.client import client_url
from rqstack.transport.raw import RawConnection
from rqstack.transport.schema import SharedSchema
from rqstack.worker.batch_board import BatchBoard
from rqstack.worker.horse.child import ChildFactory
from rqstack.worker.horse.maintenance import Maintenance
from rqstack.worker.limits import Limits, block_seconds
from rqstack.worker.scoreboard import Scoreboard
from rqstack.worker.supervisor.batches import INTERVAL, BatchWatch
from rqstack.worker.supervisor.commands import CommandListener
from rqstack.worker.supervisor.ended_horses import EndedHorses
from rqstack.worker.supervisor.heartbeat import Heartbeat
from rqstack.worker.supervisor.pool import HorsePool, HorseSlot
from rqstack.worker.supervisor.queue_wait import QueueWait
from rqstack.worker.supervisor.recovery import Recovery
from rqstack.worker.supervisor.reload import CodeWatch

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.supervisor.embedded_scheduler import EmbeddedScheduler

_TICK = 1.0
"""Seconds after which the supervisor looks at its horses' deadlines."""

OVERRUN = 5.0
"""Seconds past a job's timeout after which its horse is killed: it did not react to the signal."""


class Supervisor:
    """Keeps a horse running for each worker until all are done.

    Args:
        workers: RQ workers, registered already; all listen on the same queues.
        limits: When a horse ends.
        settings: Default: `get_settings()`.
        schedulers: Scheduler processes that are kept running beside the horses.
        commands: Where RQ's commands for the workers come from. Default: listens from here on.
    """

    def __init__(
        self,
        workers: Sequence[BaseWorker],
        limits: Limits,
        settings: Settings | None = None,
        schedulers: Sequence[EmbeddedScheduler] = (),
        commands: CommandListener | None = None,
    ) -> None:
        self._settings = settings = settings or get_settings()
        self._pid = os.getpid()
        self._id = f"{socket.gethostname()}-{self._pid}-{uuid4().hex[:8]}"
        self._scoreboard = Scoreboard(len(workers))
        first = workers[0]
        limits = replace(limits, block=block_seconds(settings.dead_after, len(first.queues)), batch=settings.batch)
        board = BatchBoard(len(workers))
        self._child_factory = ChildFactory(workers, (self._id, self._pid), (self._scoreboard, board), limits)
        watch = None if limits.burst else CodeWatch(settings)
        self._pool = HorsePool(workers, self._scoreboard, self._load, self._child_factory.prepare, watch)
        self._workers = workers
        self._log = first.log
        self._connection = RawConnection(first.connection, 5.0)
        self._batches = BatchWatch(board, workers, self._id, self._connection)
        self._recovery = Recovery(
            self._connection,
            self._id,
            hostname=socket.gethostname(),
            queues=first.queue_names(),
            dead_after=settings.dead_after,
            worker_ttl=first.worker_ttl + 60,
            max_crashes=settings.max_crashes,
        )
        self._queue_wait = QueueWait(
            first.connection, self._id, first.queue_keys(), limits.block, self._scoreboard, len(workers)
        )
        self._ended_horses = EndedHorses(
            self._pool, self._scoreboard, self._recovery, self._batches, settings.max_crashes
        )
        schema = SharedSchema(settings, client_url(first.connection))
        self._heartbeat = Heartbeat(
            self._recovery, self._connection, schema, settings, self._pool, self._scoreboard, self._id
        )
        self._refusal: IncompatibleSchema | None = None
        self._liveness = Liveness(WORKER, first.queue_names())
        self._commands = commands or CommandListener(workers)
        self._stops: list[float] = []
        self._stop_noted = False
        self._put_back_at = float("inf")
        self._clean_at = 0.0
        self._maintenance = 0
        self._schedulers = schedulers
        self._wakeup, self._wake = os.pipe()

    @property
    def jobs(self) -> int:
        """The number of jobs that its horses have ended."""
        return sum(self._scoreboard.total(slot.index) for slot in self._pool.slots)

    def run(self) -> None:
        """Run until all workers are done, or until stopped by SIGTERM or SIGINT.

        The first signal stops warmly: no new claims; what has not ended when the grace is nearly over is put back on
        its queue. A second one, a second later or more, puts back at once.

        Raises:
            IncompatibleSchema: A newer release uses this Redis now, so it has stopped.
        """
        previous = self._install_signals()
        # Freeze what is there now, so that the garbage collector does not copy the pages that horses share. (Collecting
        # first would take longer than the rest of the start, and there is next to nothing to collect.)
        gc.freeze()
        self._pool.open()
        try:
            while True:
                self._tick()
                if self._is_over():
                    break
                readable = self._sleep()
                if self._wakeup in readable:
                    os.read(self._wakeup, 4096)
                self._serve_queues(readable)
            self._shut_down()
        finally:
            for scheduler in self._schedulers:
                scheduler.stop()
            self._pool.close()
            self._queue_wait.close()
            self._liveness.remove()
            self._restore_signals(previous)
            os.close(self._wakeup)
            os.close(self._wake)
        if self._refusal is not None:
            raise self._refusal

    # -- the loop

    def _tick(self) -> None:
        self._pool.read_messages()
        moment = time.monotonic()
        if self._stops:
            self._stop(moment)
        if moment >= self._heartbeat.due_at:
            self._send_heartbeat(moment)
        self._obey_commands()
        self._ended_horses.settle(stopping=bool(self._stops))
        if self._heartbeat.is_on_record:
            self._pool.fork_due(moment)
            self._clean_registries(moment)
            self._pool.reload(moment)
        self._check_deadlines(moment)
        if not self._stops:
            for scheduler in self._schedulers:
                scheduler.keep_running(moment)
        self._liveness.touch(self._pool.code)

    def _sleep(self) -> list[int]:
        """Wait until something is due or has come. Returns the file descriptors that can be read."""
        poll = select.poll()  # and not `select`: with hundreds of queues, a descriptor's number may be too high for it
        for each in (self._wakeup, *self._pool.connections, *self._queue_wait.polled):
            poll.register(each, select.POLLIN)
        if self._commands.socket is not None:
            poll.register(self._commands.socket, select.POLLIN)
        until = time.monotonic() + self._pause()
        while True:
            left = max(until - time.monotonic(), 0.0)
            looks = self._batches.is_active and left > INTERVAL
            found = poll.poll((INTERVAL if looks else left) * 1000)
            if found or not looks:
                return [number for number, _ in found]
            self._batches.check()

    def _serve_queues(self, readable: Sequence[int]) -> None:
        active = self._heartbeat.is_on_record and not self._stops
        self._queue_wait.serve(readable, time.monotonic(), self._connection, self._recovery, active=active)

    def _pause(self) -> float:
        """Seconds until something is due."""
        moment = time.monotonic()
        due = [self._heartbeat.due_at, self._put_back_at, moment + _TICK, self._queue_wait.next_due()]
        due += self._pool.next_due()
        if any(slot.status is not None for slot in self._pool.slots):
            due.append(moment + 0.1)
        return max(min(due) - moment, 0.0) + 0.001

    def _is_over(self) -> bool:
        if self._stops and time.monotonic() > self._stops[0] + self._settings.grace:
            # Redis is unavailable; the next supervisor finds on record what is left.
            return not any(slot.pid for slot in self._pool.slots)
        return self._pool.is_empty() and self._pool.is_done()

    # -- horses

    def _load(self) -> list[str]:
        """Import the tasks; called in each forkserver's own process. Returns what failed."""
        self._queue_wait.close_copy()
        self._child_factory.release = release_name(self._settings)
        preload(self._settings)
        return [str(failure) for failure in autodiscover(self._settings).failures]

    def _check_deadlines(self, moment: float) -> None:
        for slot in self._pool.slots:
            if not slot.pid or slot.why in ("overrun", "return"):
                continue
            deadline = self._scoreboard.deadline(slot.index)
            if deadline and moment > deadline + OVERRUN:
                self._log.warning(
                    "Worker %s: the running job ignores its timeout, so the horse is killed", slot.worker.name
                )
                self._pool.kill(slot, "overrun")
            elif moment >= self._put_back_at:
                self._pool.kill(slot, "return")

    # -- Redis

    def _send_heartbeat(self, moment: float) -> None:
        try:
            self._heartbeat.send(moment)
        except IncompatibleSchema as error:
            self._refusal = error
            self._stops = self._stops or [time.monotonic()]

    def _obey_commands(self) -> None:
        """Carry out RQ's commands for the workers: stop-job, stop-execution, kill-horse, shutdown."""
        for worker, payload in self._commands.read():
            slot = next(slot for slot in self._pool.slots if slot.worker is worker)
            command = payload["command"]
            if command == "shutdown":
                worker.log.info("Worker %s: shutdown was asked for", worker.name)
                worker._shutdown_requested_date = now()
                self._pool.retire(slot)
            else:
                try:
                    self._obey(slot, payload)
                except RedisError as error:
                    worker.log.warning("Worker %s: Redis is unavailable (%s); a command is lost", worker.name, error)
                except Exception as error:  # RQ expects that its fields are as RQ writes them
                    worker.log.error("Worker %s: an invalid command is ignored: %r", worker.name, error)
                worker._executions = []

    def _obey(self, slot: HorseSlot, payload: dict[str, Any]) -> None:
        """Carry out a command that concerns a horse's job."""
        worker = slot.worker
        jobs = self._recovery.jobs(worker.name) if slot.pid else []
        begun = self._scoreboard.execution(slot.index)
        running = next((job for job in jobs if job[2] == begun), None)
        if payload["command"] == "kill-horse" and (
            not jobs or (running is not None and not self._scoreboard.busy_since(slot.index))
        ):
            worker.log.info("Worker %s is not working, kill horse command ignored", worker.name)
            return
        if running is None and jobs:
            # Claimed and not begun: any of them can still be stopped.
            running = next((job for job in jobs if job[1] == payload.get("job_id")), jobs[0])
        # RQ looks there for what the horse runs.
        worker._executions = []  # its cache of what was read from Redis before
        if running is not None:
            _, job_id, execution = running
            worker.executions = {execution: Execution(execution, job_id, worker.connection, worker.name)}
        if slot.pid:
            handle_command(worker, payload)

    def _clean_registries(self, moment: float) -> None:
        """Clean RQ's registries in a side job, at RQ's interval."""
        if moment < self._clean_at or not self._pool.is_done(self._maintenance) or self._stops:
            return
        if not self._heartbeat.may_clean:
            return
        worker = self._workers[0]
        self._clean_at = moment + worker.maintenance_interval
        scheduler = worker.scheduler
        if worker.last_cleaned_at and scheduler and not (scheduler._process and scheduler._process.is_alive()):
            with contextlib.suppress(RedisError):
                scheduler.acquire_locks(auto_start=True)
        worker.last_cleaned_at = now()  # type: ignore[assignment]
        self._maintenance = self._pool.start_side_job(Maintenance())

    # -- ending

    def _stop(self, moment: float) -> None:
        if not self._stop_noted:
            self._stop_noted = True
            self._log.info("Stopping: no new jobs; what runs has %d s", self._settings.grace)
            grace = self._settings.grace
            self._put_back_at = self._stops[0] + max(grace - 3, grace * 0.5)
            for slot in self._pool.slots:
                slot.worker._shutdown_requested_date = now()
                if self._scoreboard.busy_since(slot.index):
                    with contextlib.suppress(RedisError):
                        slot.worker.set_shutdown_requested_date()  # type: ignore[no-untyped-call]
            self._pool.stop()
            self._pool.drop_side_job(self._maintenance)
        # RQ: a second signal within a second is the same one, sent to the group and by a parent.
        if self._stops[-1] - self._stops[0] >= 1:
            self._put_back_at = 0.0

    def _shut_down(self) -> None:
        try:
            self._queue_wait.stop(self._connection)
            self._recovery.put_back([slot.worker.name for slot in self._pool.slots], crashed=False)
            self._recovery.deregister()
        except RedisError as error:
            self._log.warning("Redis is unavailable (%s); the next supervisor puts back what is left", error)
        self._commands.close()
        self._connection.close()

    # -- signals

    def _install_signals(self) -> dict[int, Any]:
        os.set_blocking(self._wake, False)
        wakeup = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        handlers: dict[int, Any] = {-1: wakeup}
        for number in (signal.SIGTERM, signal.SIGINT):
            handlers[number] = signal.signal(number, self._note_stop)
        for number in (signal.SIGCHLD, signal.SIGUSR2):
            handlers[number] = signal.signal(number, _ignore)
        handlers[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._note_unregistered)
        return handlers

    def _restore_signals(self, previous: dict[int, Any]) -> None:
        signal.set_wakeup_fd(previous.pop(-1))
        for number, handler in previous.items():
            signal.signal(number, handler)

    def _note_stop(self, signum: int, frame: FrameType | None) -> None:
        self._stops.append(time.monotonic())

    def _note_unregistered(self, signum: int, frame: FrameType | None) -> None:
        """A horse was told that its supervisor is not on record."""
        self._heartbeat.due_at = 0.0


def _ignore(signum: int, frame: FrameType | None) -> None:
    """A handler that does nothing: the signal interrupts `select` by the wakeup descriptor."""
