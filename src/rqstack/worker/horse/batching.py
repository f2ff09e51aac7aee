"""Sets how many jobs a horse claims at once: several while they are tiny, one as soon as a job is not."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rqstack.worker.batch_board import BatchBoard
    from rqstack.worker.limits import Limits
    from rqstack.worker.outcome import Outcome

_TINY = 0.002
"""Seconds below which a job is tiny: several of them are claimed at once."""

_UNRECORDED = 0.004
"""Seconds for which the outcome of a tiny job waits for those of others."""

_LONG = 0.010
"""Seconds after which the horse asks Redis what it still has of its batch. By then its supervisor has taken back the
rest; or that stood still as well, and another one may have given the jobs to its own horses."""


class Batching:
    """The batch of a horse, and the size of the next one.

    Args:
        board: Where its supervisor sees which job of the batch it runs.
        index: Its place on the board.
        limits: For the largest batch.
        supervisor_pid: The supervisor's process.
        is_allowed: False to claim one job at a time.
    """

    def __init__(self, board: BatchBoard, index: int, limits: Limits, supervisor_pid: int, *, is_allowed: bool) -> None:
        self._board = board
        self._index = index
        self._limits = limits
        self._supervisor_pid = supervisor_pid
        self._is_allowed = is_allowed
        self._size = 1
        self._is_batch = False
        self._is_watched = False
        self._started = 0.0
        self._began = 0.0
        self._ended = 0
        self._first_ended = 0.0
        self._longest = 0.0

    def size(self, jobs: int) -> int:
        """The number of jobs that a horse which has run `jobs` should claim at once."""
        if not self._is_allowed:
            return 1
        left = self._limits.left(jobs)
        return self._size if left is None else max(min(self._size, left), 1)

    def start(self, call_id: str, count: int) -> None:
        """The first job of a batch begins.

        Args:
            call_id: The call that claimed it.
            count: How many jobs it has; one job is no batch.
        """
        self._started = self._began = time.monotonic()
        self._first_ended = self._longest = 0.0
        self._ended = 0
        self._is_batch = count > 1
        if self._is_batch:
            self._board.start(self._index, call_id, count, self._began)
            if not self._is_watched:
                # Not before there is a batch: waking the supervisor would slow down single jobs.
                self._is_watched = True
                self._board.set_active(self._index, active=True)
                os.kill(self._supervisor_pid, signal.SIGUSR2)  # it looks at the batches from now on

    def may_begin(self, place: int, ended: Outcome) -> bool:
        """Whether the next job of the batch may begin; if not, the rest is put back.

        Args:
            place: Its place in the batch, from 1.
            ended: How the one before it ended.
        """
        return (
            self._longest <= _LONG
            and self._began - self._first_ended <= _UNRECORDED
            and self._board.note(self._index, ended, self._began)
            and self._board.begin(self._index, place, self._began)
        )

    def note_end(self) -> None:
        """A job of the batch has ended."""
        ended = time.monotonic()
        self._longest, self._began = max(self._longest, ended - self._began), ended
        self._first_ended = self._first_ended or ended
        self._ended += 1

    def adapt(self) -> None:
        """Set the size of the next batch by the times of this one's jobs."""
        size = 1
        if self._longest < _TINY:
            average = (self._began - self._started) / self._ended
            # More than there is time for would be put back.
            size = min(self._size * 2, self._limits.batch, 1 + int(_UNRECORDED / max(average, 1e-6)))
        self._set_size(size)

    def reset(self) -> None:
        """There are no jobs: claim one at once when there are."""
        self._set_size(1)

    def is_taken_back(self) -> bool:
        """Whether the supervisor has recorded a part of the batch; called once the horse has recorded the rest."""
        if not self._is_batch:
            return False
        self._is_batch = False
        return self._board.end(self._index)

    def _set_size(self, size: int) -> None:
        if size == 1 and self._is_watched:
            self._is_watched = False
            self._board.set_active(self._index, active=False)
        self._size = size
