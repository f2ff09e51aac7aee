"""Shared memory through which horses report their running job, or that they are idle, to their supervisor."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct

_ROW = struct.Struct("ddQQQQ32s")
_WAITING = struct.calcsize("ddQQ")
_ID = struct.Struct("32s")
_EXECUTION = struct.calcsize("ddQQQQ")


class Scoreboard:
    """Numbers that horses write and their supervisor reads. Processes that are forked later share the memory.

    The name is Apache's, for the same thing.

    Args:
        count: How many horses.
    """

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * _ROW.size + 1)
        self._silent = count * _ROW.size
        self._bell: tuple[int, int] | None = None

    def begin(self, index: int, now: float, deadline: float, execution: str) -> None:
        """A job begins.

        Args:
            index: The horse.
            now: Monotonic time.
            deadline: Monotonic time at which the job should have ended; 0 for never.
            execution: The id of this run of it.
        """
        _ID.pack_into(self._memory, index * _ROW.size + _EXECUTION, execution.encode())
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
        _ID.pack_into(self._memory, index * _ROW.size + _EXECUTION, b"")
        self.leave(index)

    def busy_since(self, index: int) -> float:
        """Monotonic time at which the running job began; 0 if there is none."""
        return self._read(index)[0]

    def execution(self, index: int) -> str:
        """The execution that the present horse has begun last, which may have ended; "" for none."""
        (execution,) = _ID.unpack_from(self._memory, index * _ROW.size + _EXECUTION)
        return str(execution.rstrip(b"\0").decode("ascii", "replace"))

    def deadline(self, index: int) -> float:
        """Monotonic time at which the running job should have ended; 0 if there is none, or it has no limit."""
        return self._read(index)[1]

    def jobs(self, index: int) -> int:
        """Jobs that the present horse has ended."""
        return self._read(index)[2]

    def total(self, index: int) -> int:
        """Jobs that former horses of the slot have ended."""
        return self._read(index)[3]

    # -- idle horses

    def add_bell(self) -> int:
        """Make a pipe by which idle horses wake the supervisor. Returns the end that it polls."""
        self._bell = os.pipe()
        for descriptor in self._bell:
            os.set_blocking(descriptor, False)
        return self._bell[0]

    def close_bell(self) -> None:
        """Close the pipe."""
        bell, self._bell = self._bell, None
        for descriptor in bell or ():
            os.close(descriptor)

    def clear_bell(self) -> None:
        """Read what horses have written into the pipe."""
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._bell[0], 512):
                    pass

    def silence(self, *, silent: bool) -> None:
        """Set whether horses that become idle let the supervisor sleep: it waits on every queue for them already."""
        self._memory[self._silent] = silent

    def wait(self, index: int, client_id: int) -> None:
        """A horse has begun to wait in Redis; `client_id` is Redis's id of its connection."""
        _, ticket = self.waiting(index)
        struct.pack_into("QQ", self._memory, index * _ROW.size + _WAITING, client_id, ticket + 1)
        if self._bell is not None and not self._memory[self._silent]:
            with contextlib.suppress(OSError):  # it is full, or a task has closed it
                os.write(self._bell[1], b"\0")

    def leave(self, index: int) -> None:
        """A horse waits no more."""
        struct.pack_into("Q", self._memory, index * _ROW.size + _WAITING, 0)

    def waiting(self, index: int) -> tuple[int, int]:
        """The client id of a horse's wait in Redis, 0 if it does not wait; and how often it has begun to."""
        return struct.unpack_from("QQ", self._memory, index * _ROW.size + _WAITING)

    def _read(self, index: int) -> tuple[float, float, int, int]:
        return struct.unpack_from("ddQQ", self._memory, index * _ROW.size)
