"""A job's timeout by SIGALRM, as RQ's UnixSignalDeathPenalty, but the handler is set once and not for each job."""

from __future__ import annotations

import signal
from _signal import getsignal as handler_of  # type: ignore[import-not-found]
from types import FrameType, TracebackType

from rq.timeouts import JobTimeoutException

__all__ = ["JobTimeout", "handler_of"]

# `handler_of` is what signal.getsignal wraps; the wrapping takes longer than a short job.
_SIGALRM = int(signal.SIGALRM)


class JobTimeout:
    """A context manager that can be entered again and again, with a different timeout each time.

    The handler stays set between jobs; where a task has set another, the next job finds its own again.
    """

    def __init__(self) -> None:
        self._seconds = 0
        self._handler = self._ring

    def __call__(self, seconds: int) -> JobTimeout:
        """Set the time for the next job, in seconds."""
        self._seconds = seconds
        return self

    def __enter__(self) -> None:
        if handler_of(_SIGALRM) is not self._handler:
            signal.signal(_SIGALRM, self._handler)
        signal.alarm(self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            signal.alarm(0)
        except JobTimeoutException:
            # The alarm fired just after the job ended: it counts as ended, as in RQ.
            signal.alarm(0)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise JobTimeoutException(f"Task exceeded maximum timeout value ({self._seconds} seconds)")
