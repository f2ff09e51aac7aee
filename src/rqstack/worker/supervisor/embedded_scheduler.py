"""A scheduler process beside the horses: `rqstack worker run --with-scheduler`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

from rqstack.processes.parent import die_with

if TYPE_CHECKING:
    from rqstack.settings import Settings

log = logging.getLogger("rqstack.worker")

_RESTART_DELAY = 5.0
"""Seconds until a scheduler that has ended is started again."""


class EmbeddedScheduler:
    """A scheduler process that is kept running.

    Args:
        settings: Its settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pid = 0
        self._due = 0.0

    def keep_running(self, moment: float) -> None:
        """Start it, where it does not run; `moment` is monotonic time."""
        if self._pid:
            if not os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            log.error("The scheduler process has ended; it is started again in %d s", _RESTART_DELAY)
            self._pid, self._due = 0, moment + _RESTART_DELAY
        if moment >= self._due:
            self._start()

    def stop(self) -> None:
        """Stop it, and wait for its end."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _start(self) -> None:
        from rqstack.scheduling.process import SchedulerProcess

        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                die_with(parent)
                code = SchedulerProcess(self._settings).run()
            finally:
                os._exit(code)
