"""Shared memory through which horses report their running job to their supervisor."""

from __future__ import annotations

import mmap
import struct

_ROW = struct.Struct("ddQQ")


class Scoreboard:
    """Numbers that horses write and their supervisor reads. Processes that are forked later share the memory.

    The name is Apache's, for the same thing.

    Args:
        count: How many horses.
    """

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * _ROW.size)

    def begin(self, index: int, now: float, deadline: float) -> None:
        """A job begins.

        Args:
            index: The horse.
            now: Monotonic time.
            deadline: Monotonic time at which the job should have ended; 0 for never.
        """
        struct.pack_into("dd", self._memory, index * _ROW.size, now, deadline)

    def end(self, index: int, jobs: int) -> None:
        """A job has ended; `jobs` is how many this horse has run."""
        struct.pack_into("ddQ", self._memory, index * _ROW.size, 0.0, 0.0, jobs)

    def add_total(self, index: int, jobs: int) -> None:
        """Add jobs that ended to the total of all horses that had this slot."""
        _, _, _, total = self._read(index)
        struct.pack_into("Q", self._memory, index * _ROW.size + 24, total + jobs)

    def clear(self, index: int) -> None:
        """A new horse takes the slot."""
        struct.pack_into("ddQ", self._memory, index * _ROW.size, 0.0, 0.0, 0)

    def busy_since(self, index: int) -> float:
        """Monotonic time at which the running job began; 0 if there is none."""
        return self._read(index)[0]

    def deadline(self, index: int) -> float:
        """Monotonic time at which the running job should have ended; 0 if there is none, or it has no limit."""
        return self._read(index)[1]

    def jobs(self, index: int) -> int:
        """Jobs that the present horse has ended."""
        return self._read(index)[2]

    def total(self, index: int) -> int:
        """Jobs that former horses of the slot have ended."""
        return self._read(index)[3]

    def _read(self, index: int) -> tuple[float, float, int, int]:
        return _ROW.unpack_from(self._memory, index * _ROW.size)
