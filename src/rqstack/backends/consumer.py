"""The consumer: keeps a number of readers of a message backend running, and runs no user code itself."""

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
from rqstack.processes import hooks
from rqstack.processes.parent import die_with
from rqstack.settings import Settings, get_settings

log = logging.getLogger("rqstack.worker")


class Consumer:
    """Keeps n readers running until it is told to stop; the counterpart of `Supervisor` for a message backend.

    A reader that dies gives its message back at once. One whose consumer dies too is run by another consumer when its
    lease ends, after RQSTACK_DEAD_AFTER. (Both need a backend that claims: see `BaseQueue`.)

    Args:
        queues: Queue names, in order of priority.
        settings: Default: `get_settings()`.
        processes: Readers. Default: `settings.processes`.
        burst: End when the queues are empty.
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
        self.pid = os.getpid()
        self.crashes: Counter[bytes] = Counter()

    def run(self) -> int:
        """Run until stopped. Returns the exit code."""
        awake, self._awaken = os.pipe()
        for end in (awake, self._awaken):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._awaken, warn_on_full_buffer=False)
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
            now = time.monotonic()
            if self.stopping and deadline == float("inf"):
                deadline = now + self.settings.grace
            if now > deadline:
                log.warning("Killing %d processes that did not end in %d s", len(self.readers), self.settings.grace)
                self._signal(signal.SIGKILL)
                deadline = float("inf") if not self.stopping else now + 1
            if now - extended >= self.settings.heartbeat:
                self._extend()
                extended = now
            self._reap()
            if self.readers:
                until = min(extended + self.settings.heartbeat, deadline)
                select.select([awake], [], [], max(0.0, until - time.monotonic()))
                with contextlib.suppress(BlockingIOError):
                    os.read(awake, 4096)
        signal.set_wakeup_fd(-1)
        for end in (awake, self._awaken):
            os.close(end)
        for queue in self.queues:
            queue.close()
        return 0

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        again = self.stopping
        if not again:
            log.info("Stopping: jobs get %d s to end", self.settings.grace)
        self.stopping = True
        self._signal(signal.SIGKILL if again else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        for pid in list(self.readers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _extend(self) -> None:
        for queue in self.queues:
            try:
                queue.extend(self.readers.values(), self.settings.dead_after)
            except Exception as error:
                log.warning("Leases were not extended: %s", error)

    def _reap(self) -> None:
        for pid, owner in list(self.readers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            del self.readers[pid]
            code = os.waitstatus_to_exitcode(status)
            if code:
                self._crashed(owner, code)
            if not self.stopping and not (self.burst and code == 0):
                self._fork()

    def _crashed(self, owner: str, code: int) -> None:
        """Give back what a dead reader had in hand; not for ever, if it is the message that kills."""
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        for queue in self.queues:
            try:
                data = queue.held(owner)
                key = hashlib.sha256(data or b"").digest()
                if data is None:
                    log.error("A reader of %s ended %s", queue.name, how)
                elif not self.stopping and self._count(key) >= self.settings.max_crashes:
                    del self.crashes[key]
                    open_queue(queue.name + FAILED, self.settings).write(data)
                    queue.ack(owner)
                    log.error("Queue %s: a message ended its reader %s once too often: failed", queue.name, how)
                    continue
                else:
                    log.error("Queue %s: a reader ended %s in mid-job: its message waits again", queue.name, how)
                queue.release(owner)
            except Exception as error:
                log.warning("Queue %s: what a dead reader had waits for its lease to end: %s", queue.name, error)

    def _count(self, key: bytes) -> int:
        self.crashes[key] += 1
        return self.crashes[key]

    def _fork(self) -> None:
        owner = uuid4().hex
        if hooks.before_fork:
            hooks.run(hooks.before_fork)
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal for the parent must not run the parent's handler in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        pid = os.fork()
        if pid:
            self.readers[pid] = owner
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            return
        code = 1
        try:
            self._become_reader(owner)
            code = 0
        except BaseException:
            log.exception("A reader failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _become_reader(self, owner: str) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A reader whose consumer was killed must not go on beside the one that takes over its message.
        die_with(self.pid)
        reader = Reader(self.names, owner, self.settings, burst=self.burst)
        signal.signal(signal.SIGTERM, reader._stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        if hooks.after_fork:
            hooks.run(hooks.after_fork)
        reader.run()
