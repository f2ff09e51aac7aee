"""The supervisor: keeps a number of horses running, and runs no user code itself."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Sequence
from types import FrameType
from uuid import uuid4

from redis.exceptions import RedisError

from rqstack.connections import connect
from rqstack.settings import Settings, get_settings
from rqstack.worker.horse import Worker

log = logging.getLogger("rqstack.worker")


class Supervisor:
    """Keeps n horses running until it is told to stop.

    Args:
        queues: Queue names, in order of priority.
        settings: Default: `get_settings()`.
        processes: Horses. Default: `settings.processes`.
        burst: End when the queues are empty.
    """

    def __init__(
        self,
        queues: Sequence[str],
        settings: Settings | None = None,
        *,
        processes: int | None = None,
        burst: bool = False,
    ) -> None:
        self.settings = settings or get_settings()
        self.queues = tuple(queues)
        self.processes = processes or self.settings.processes
        self.burst = burst
        self.horses: dict[int, str] = {}
        self.stopping = False

    def run(self) -> int:
        """Run until stopped. Returns the exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        while not self.stopping and len(self.horses) < self.processes:
            self._fork()
        deadline = float("inf")
        while self.horses:
            if self.stopping and deadline == float("inf"):
                deadline = time.monotonic() + self.settings.grace
            if time.monotonic() > deadline:
                for pid in self.horses:
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            time.sleep(0.1)
        return 0

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True
        for pid in self.horses:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _reap(self) -> None:
        for pid in list(self.horses):
            if os.waitpid(pid, os.WNOHANG)[0]:
                del self.horses[pid]
                if not self.stopping and not self.burst:
                    self._fork()

    def _fork(self) -> None:
        name = uuid4().hex
        pid = os.fork()
        if pid:
            self.horses[pid] = name
            return
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        wait = 0.2
        while True:
            connection = connect(self.settings)
            try:
                Worker(list(self.queues), name=name, connection=connection).work(burst=self.burst)
            except RedisError as error:
                log.warning("Redis is away (%s); trying again in %.1f s", error, wait)
                time.sleep(wait * random.uniform(0.5, 1.5))
                wait = min(wait * 2, 5)
                continue
            os._exit(0)
