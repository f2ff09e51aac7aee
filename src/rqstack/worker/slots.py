"""What a supervisor sees of its horses without asking Redis: a few numbers each, in memory that they share."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

_SLOT = struct.Struct("ddQQ")


class Slots:
    """Shared numbers of horses. The memory is a file without a name: it survives an `exec` of the supervisor.

    Args:
        count: How many horses.
        descriptor: The file descriptor of slots made before an `exec`; None for new ones.
    """

    def __init__(self, count: int, descriptor: int | None = None) -> None:
        if descriptor is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(count * _SLOT.size)
                descriptor = os.dup(file.fileno())
            os.set_inheritable(descriptor, True)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, count * _SLOT.size)

    def begin(self, index: int, now: float, deadline: float) -> None:
        """A job begins.

        Args:
            index: The horse.
            now: Monotonic time.
            deadline: Monotonic time at which the job should have ended; 0 for never.
        """
        struct.pack_into("dd", self._memory, index * _SLOT.size, now, deadline)

    def end(self, index: int, jobs: int) -> None:
        """A job has ended; `jobs` is how many this horse has run."""
        struct.pack_into("ddQ", self._memory, index * _SLOT.size, 0.0, 0.0, jobs)

    def add_total(self, index: int, jobs: int) -> None:
        """Jobs that ended, over all horses that had this slot."""
        _, _, _, total = self._read(index)
        struct.pack_into("Q", self._memory, index * _SLOT.size + 24, total + jobs)

    def clear(self, index: int) -> None:
        """A new horse takes the slot."""
        struct.pack_into("ddQ", self._memory, index * _SLOT.size, 0.0, 0.0, 0)

    def busy_since(self, index: int) -> float:
        """Monotonic time at which the job in hand began; 0 if there is none."""
        return self._read(index)[0]

    def deadline(self, index: int) -> float:
        """Monotonic time at which the job in hand should have ended; 0 if there is none, or it has no limit."""
        return self._read(index)[1]

    def jobs(self, index: int) -> int:
        """Jobs that the present horse has ended."""
        return self._read(index)[2]

    def total(self, index: int) -> int:
        """Jobs that former horses of the slot have ended."""
        return self._read(index)[3]

    def _read(self, index: int) -> tuple[float, float, int, int]:
        return _SLOT.unpack_from(self._memory, index * _SLOT.size)
