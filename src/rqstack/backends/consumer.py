"""The consumer: supervises the reader processes of a message backend. It runs no user code itself."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from uuid import uuid4

from rqstack.backends import BaseQueue, open_queue
from rqstack.backends.messages import FAILED
from rqstack.backends.reader import Reader
from rqstack.errors import IncompatibleSchema
from rqstack.processes import hooks
from rqstack.processes.liveness import WORKER, Liveness
from rqstack.processes.parent import die_with
from rqstack.settings import Settings, get_settings

log = logging.getLogger("rqstack.worker")

JOIN_INTERVAL = 0.5
"""Seconds until the store is asked again whether this release may use it."""


class Consumer:
    """Keeps a number of readers running until it is stopped; the counterpart of `Supervisor` for a message backend.

    The message of a reader that dies returns to the queue at once. If the consumer dies too, another consumer runs the
    message when its lease expires after RQSTACK_DEAD_AFTER. Both need a backend with claims, see `BaseQueue`.

    Args:
        queues: Queue names in order of priority.
        settings: Default: `get_settings()`.
        processes: Number of readers. Default: `settings.processes`.
        burst: Return when the queues are empty.
        on_ready: Called once the readers run.

    Raises:
        BackendError: The backend cannot be loaded.
    """

    def __init__(
        self,
        queues: Sequence[str],
        settings: Settings | None = None,
        *,
        processes: int | None = None,
        burst: bool = False,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings or get_settings()
        self.names = tuple(queues)
        self.processes = processes or self.settings.processes
        self.burst = burst
        self.on_ready = on_ready
        self.queues: list[BaseQueue] = [open_queue(name, self.settings) for name in self.names]
        self.readers: dict[int, str] = {}
        self.stopping = False
        self.exit_code = 0
        self.pid = os.getpid()
        self.crashes: Counter[bytes] = Counter()
        self.liveness = Liveness(WORKER, self.names)

    def run(self) -> int:
        """Run until stopped. Returns the exit code.

        Raises:
            IncompatibleSchema: The data in the store is of a version that this release cannot share.
        """
        while not self._join():
            self.liveness.touch()
            time.sleep(JOIN_INTERVAL)
        # Signals wake the select below through this pipe.
        wakeup, wakeup_writer = os.pipe()
        for end in (wakeup, wakeup_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        log.info("Consuming %s with %d processes", ", ".join(self.names), self.processes)
        while not self.stopping and len(self.readers) < self.processes:
            self._fork()
        if self.on_ready is not None:
            self.on_ready()
        extended = time.monotonic()
        deadline = float("inf")
        while self.readers:
            self.liveness.touch()
            now = time.monotonic()
            if self.stopping and deadline == float("inf"):
                deadline = now + self.settings.grace
            if now > deadline:
                log.warning("Killing %d processes: still running after %d s", len(self.readers), self.settings.grace)
                self._signal(signal.SIGKILL)
                deadline = float("inf") if not self.stopping else now + 1
            if now - extended >= self.settings.heartbeat:
                self._extend_leases()
                self._join_again()
                extended = now
            self._reap()
            if self.readers:
                until = min(extended + self.settings.heartbeat, deadline)
                select.select([wakeup], [], [], max(0.0, until - time.monotonic()))
                with contextlib.suppress(BlockingIOError):
                    os.read(wakeup, 4096)
        signal.set_wakeup_fd(-1)
        for end in (wakeup, wakeup_writer):
            os.close(end)
        for queue in self.queues:
            queue.close()
        self.liveness.remove()
        return self.exit_code

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        is_second = self.stopping
        if not is_second:
            log.info("Stopping: jobs have %d s to finish", self.settings.grace)
        self.stopping = True
        self._signal(signal.SIGKILL if is_second else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for pid in list(self.readers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _join(self) -> bool:
        try:
            joined = [queue.join() for queue in self.queues]
        except IncompatibleSchema:
            raise
        except Exception as error:  # the readers wait until the store can be reached
            log.warning("Cannot ask the store for the version of its data: %s", error)
            return True
        return all(joined)

    def _join_again(self) -> None:
        try:
            self._join()
        except IncompatibleSchema as error:
            if not self.stopping:
                log.error("%s", error)
                self.exit_code = error.exit_code
                self._stop(signal.SIGTERM, None)

    def _extend_leases(self) -> None:
        for queue in self.queues:
            try:
                queue.extend(self.readers.values(), self.settings.dead_after)
            except Exception as error:
                log.warning("Cannot extend leases: %s", error)

    def _reap(self) -> None:
        for pid, owner in list(self.readers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self.readers[pid]
            code = os.waitstatus_to_exitcode(status)
            if code:
                self._recover_message(owner, code)
            if not self.stopping and not (self.burst and code == 0):
                self._fork()

    def _recover_message(self, owner: str, code: int) -> None:
        """Return the message of a dead reader to the queue, or fail it as a poison message after `max_crashes`."""
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        for queue in self.queues:
            try:
                data = queue.held(owner)
                key = hashlib.sha256(data or b"").digest()
                if data is None:
                    log.error("A reader of %s ended %s", queue.name, how)
                elif not self.stopping and self._count_crash(key) >= self.settings.max_crashes:
                    del self.crashes[key]
                    open_queue(queue.name + FAILED, self.settings).write(data)
                    queue.ack(owner)
                    log.error("Queue %s: a message ended its reader %s too often, and is failed", queue.name, how)
                    continue
                else:
                    log.error("Queue %s: a reader ended %s during a job: its message is requeued", queue.name, how)
                queue.release(owner)
            except Exception as error:
                log.warning(
                    "Queue %s: the message of a dead reader waits until its lease expires: %s", queue.name, error
                )

    def _count_crash(self, key: bytes) -> int:
        self.crashes[key] += 1
        return self.crashes[key]

    def _fork(self) -> None:
        owner = uuid4().hex
        if hooks.before_fork:
            hooks.run(hooks.before_fork)
        sys.stdout.flush()
        sys.stderr.flush()
        # Until the child installs its own handlers, a signal must not run those of the parent.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        pid = os.fork()
        if pid:
            self.readers[pid] = owner
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            return
        code = 1
        try:
            self._run_reader(owner)
            code = 0
        except BaseException:
            log.exception("A reader failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _run_reader(self, owner: str) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # If the consumer is killed, another one takes over the message, so this reader must not go on.
        die_with(self.pid)
        reader = Reader(self.names, owner, self.settings, burst=self.burst)
        signal.signal(signal.SIGTERM, reader._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        if hooks.after_fork:
            hooks.run(hooks.after_fork)
        reader.run()
