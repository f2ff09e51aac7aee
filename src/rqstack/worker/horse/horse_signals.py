"""The signals of a horse: SIGTERM asks it to stop, and any signal ends its sleep."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from types import FrameType

from rqstack.worker.horse.timeout import handler_of

_SIGTERM = int(signal.SIGTERM)


class HorseSignals:
    """Handles the signals of a horse's process. Made in the process that forks it, installed in its own."""

    def __init__(self) -> None:
        self.stopping = False
        """Whether SIGTERM has arrived."""
        self.lost_files = False
        """Whether a task has closed files that were not its own."""
        self._open()
        self._on_stop = self._stop

    def install(self) -> None:
        """Set the handlers of this process."""
        os.set_blocking(self.wakeup, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        # A terminal sends Ctrl-C to all processes; the supervisor passes on what concerns a horse.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        # Blocked since before the fork: a horse that is stopped as it starts must not miss the signal.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])

    def install_again(self) -> None:
        """Set the handlers again if a task, or asyncio, has replaced them."""
        if handler_of(_SIGTERM) is not self._on_stop:
            self.install()

    def check_files(self) -> bool:
        """Whether the pipe is still open. If a task has closed it there is another one from now on.

        The old numbers may be those of other files by now, so they are left alone.
        """
        try:
            if all(_identity(each) == self._pipe for each in (self.wakeup, self._wake)):
                return True
        except OSError:
            pass
        self.renew()
        return False

    def renew(self) -> None:
        """Note that a task has closed the process's files, and open another pipe."""
        self.lost_files = True
        self._open()
        self.install()

    def pause(self, seconds: float) -> None:
        """Sleep until SIGTERM arrives, or the time is over."""
        self.check_files()
        until = time.monotonic() + seconds
        while not self.stopping and (remaining := until - time.monotonic()) > 0:
            select.select([self.wakeup], [], [], remaining)
            self.clear()

    def clear(self) -> None:
        """Discard the signals that have arrived, a job's alarm among them: `stopping` holds what matters."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wakeup, 512):
                pass

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.wakeup)
        os.close(self._wake)

    def _open(self) -> None:
        self.wakeup, self._wake = os.pipe()
        self._pipe = _identity(self.wakeup)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        self.stopping = True


def _identity(descriptor: int) -> tuple[int, int]:
    """What tells an open file from another one that has its number; OSError if none is open."""
    stat = os.fstat(descriptor)
    return stat.st_dev, stat.st_ino
