"""Shared memory through which a supervisor sees the batch of a horse, and takes back what has not begun.

A horse that runs tiny jobs claims several at once, a batch, and records them together. If one of them takes long after
all, the supervisor records those that have ended, and puts back those that have not begun.

Both may act at the same moment, so they agree as in Dekker's algorithm: the horse writes which job it begins, then
reads whether the rest was taken back; the supervisor writes that it takes the rest back, then reads which job has
begun. At least one of them sees what the other has written. If both do, the supervisor leaves the job to the horse, and
the horse asks Redis what it still has.
"""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from rqstack.worker.outcome import Outcome

_HEAD = struct.Struct("B7xQQddQ32s")
"""Whether the horse claims several jobs at once; jobs in the batch; the place of the running job; when that began; when
the first job ended that is not recorded; bytes of outcomes; the id of the call that claimed the batch."""

_TAKEN_BACK = _HEAD.size
_OUTCOMES = _TAKEN_BACK + 8
_SIZE = 1 << 16
_LENGTH = struct.Struct("I")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_fence = threading.Lock()


class Batch(NamedTuple):
    """The batch of a horse.

    Args:
        call_id: The call that claimed it.
        size: How many jobs it has; 0 for no batch.
        place: The place of the running job in the batch, from 0.
        began: Monotonic time at which that job began.
        first_ended: Monotonic time at which the first job ended that is not recorded; 0 for none.
    """

    call_id: str
    size: int
    place: int
    began: float
    first_ended: float

    def not_begun(self) -> list[str]:
        """The executions of the jobs that have not begun; see claim.lua."""
        return [f"{self.call_id[:30]}{place + 1:02x}" for place in range(self.place + 1, self.size)]


class BatchBoard:
    """The batches of a supervisor's horses. Processes that are forked later share the memory.

    Args:
        count: How many horses.
    """

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, count * _SIZE)
        self._count = count

    # -- the horse

    def set_active(self, index: int, *, active: bool) -> None:
        """Say whether the horse claims several jobs at once: then its supervisor looks at it often."""
        self._memory[index * _SIZE] = active

    def start(self, index: int, call_id: str, count: int, now: float) -> None:
        """A batch begins with its first job.

        Args:
            call_id: The call that claimed it.
            count: How many jobs it has.
            now: Monotonic time.
        """
        at = index * _SIZE
        self._memory[at + _TAKEN_BACK] = 0
        _HEAD.pack_into(self._memory, at, 1, 0, 0, now, 0.0, 0, call_id.encode())
        _HEAD.pack_into(self._memory, at, 1, count, 0, now, 0.0, 0, call_id.encode())

    def note(self, index: int, outcome: Outcome, now: float) -> bool:
        """A job of the batch has ended, and others follow.

        Returns:
            Whether its outcome fits into the memory; if not, the horse records it at once.
        """
        at = index * _SIZE
        active, count, place, began, first_ended, used, call_id = _HEAD.unpack_from(self._memory, at)
        data = _encode(outcome.arguments())
        end = used + _LENGTH.size + len(data)
        if _OUTCOMES + end > _SIZE:
            return False
        _LENGTH.pack_into(self._memory, at + _OUTCOMES + used, len(data))
        self._memory[at + _OUTCOMES + used + _LENGTH.size : at + _OUTCOMES + end] = data
        _HEAD.pack_into(self._memory, at, active, count, place, began, first_ended or now, end, call_id)
        return True

    def begin(self, index: int, place: int, now: float) -> bool:
        """The next job of the batch is about to begin.

        Returns:
            Whether it may; if not, the supervisor has taken back the jobs that had not begun.
        """
        at = index * _SIZE
        active, count, _, _, first_ended, used, call_id = _HEAD.unpack_from(self._memory, at)
        _HEAD.pack_into(self._memory, at, active, count, place, now, first_ended, used, call_id)
        with _fence:  # for its memory barrier: the write comes before the read
            return not self._memory[at + _TAKEN_BACK]

    def end(self, index: int) -> bool:
        """The batch is recorded. Returns whether the supervisor has recorded or put back a part of it."""
        at = index * _SIZE
        active, *_ = _HEAD.unpack_from(self._memory, at)
        _HEAD.pack_into(self._memory, at, active, 0, 0, 0.0, 0.0, 0, b"")
        return bool(self._memory[at + _TAKEN_BACK])

    # -- the supervisor

    def is_active(self) -> bool:
        """Whether any horse claims several jobs at once."""
        return any(self._memory[index * _SIZE] for index in range(self._count))

    def clear(self, index: int) -> None:
        """A new horse takes the place."""
        self._memory[index * _SIZE : index * _SIZE + _OUTCOMES] = bytes(_OUTCOMES)

    def batch(self, index: int) -> Batch:
        """The batch of a horse."""
        _, count, place, began, first_ended, _, call_id = _HEAD.unpack_from(self._memory, index * _SIZE)
        return Batch(call_id.decode("ascii", "replace"), count, place, began, first_ended)

    def take_back(self, index: int, batch: Batch) -> Batch | None:
        """Take back the jobs that have not begun.

        Args:
            batch: As it was read before.

        Returns:
            The batch as it is now; None if the horse has another one.
        """
        self._memory[index * _SIZE + _TAKEN_BACK] = 1
        with _fence:  # for its memory barrier: the write comes before the read
            now = self.batch(index)
        return now if now.call_id == batch.call_id and now.size else None

    def outcomes(self, index: int) -> Iterator[list[Any]]:
        """The outcomes of the jobs that have ended, as arguments for settle.lua.

        An outcome that is being written at this moment is left out: the horse records it.
        """
        at = index * _SIZE + _OUTCOMES
        used = _HEAD.unpack_from(self._memory, index * _SIZE)[5]
        end = at + min(used, _SIZE - _OUTCOMES)
        while at + _LENGTH.size <= end:
            (length,) = _LENGTH.unpack_from(self._memory, at)
            at += _LENGTH.size + length
            if at > end:
                return
            try:
                yield _decode(self._memory[at - length : at])
            except msgspec.MsgspecError:
                return
