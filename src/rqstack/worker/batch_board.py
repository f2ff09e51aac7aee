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

_ACTIVE, _COUNT, _PLACE, _BEGAN, _FIRST_ENDED, _USED, _TAKEN_BACK = range(7)
"""Numbers of eight bytes at the head of a horse's memory: whether the horse claims several jobs at once; jobs in the
batch; the place of the running job; when that began; when the first job ended that is not recorded; bytes of outcomes;
whether the rest was taken back. Each is written by itself: a struct is zeroed before it is packed, which would be seen.
"""

_CALL_ID = 7 * 8
_OUTCOMES = _CALL_ID + 32
_SIZE = 1 << 16
_NUMBERS = _SIZE // 8
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
        self._numbers = memoryview(self._memory).cast("Q")
        self._times = memoryview(self._memory).cast("d")
        self._count = count

    # -- the horse

    def set_active(self, index: int, *, active: bool) -> None:
        """Say whether the horse claims several jobs at once: then its supervisor looks at it often."""
        self._numbers[index * _NUMBERS + _ACTIVE] = active

    def start(self, index: int, call_id: str, count: int, now: float) -> None:
        """A batch begins with its first job.

        Args:
            call_id: The call that claimed it.
            count: How many jobs it has.
            now: Monotonic time.
        """
        at, head = index * _SIZE + _CALL_ID, index * _NUMBERS
        numbers, times = self._numbers, self._times
        numbers[head + _COUNT] = 0
        self._memory[at : at + 32] = call_id.encode()
        numbers[head + _TAKEN_BACK] = numbers[head + _PLACE] = numbers[head + _USED] = 0
        times[head + _BEGAN], times[head + _FIRST_ENDED] = now, 0.0
        numbers[head + _COUNT] = count

    def note(self, index: int, outcome: Outcome, now: float) -> bool:
        """A job of the batch has ended, and others follow.

        Returns:
            Whether its outcome fits into the memory; if not, the horse records it at once.
        """
        at, head = index * _SIZE + _OUTCOMES, index * _NUMBERS
        used = self._numbers[head + _USED]
        data = _encode(outcome.arguments())
        end = used + _LENGTH.size + len(data)
        if _OUTCOMES + end > _SIZE:
            return False
        _LENGTH.pack_into(self._memory, at + used, len(data))
        self._memory[at + used + _LENGTH.size : at + end] = data
        self._numbers[head + _USED] = end
        if not used:
            self._times[head + _FIRST_ENDED] = now
        return True

    def begin(self, index: int, place: int, now: float) -> bool:
        """The next job of the batch is about to begin.

        Returns:
            Whether it may; if not, the supervisor has taken back the jobs that had not begun.
        """
        head = index * _NUMBERS
        self._times[head + _BEGAN] = now
        self._numbers[head + _PLACE] = place
        with _fence:  # for its memory barrier: the write comes before the read
            return not self._numbers[head + _TAKEN_BACK]

    def end(self, index: int) -> bool:
        """The batch is recorded. Returns whether the supervisor has recorded or put back a part of it."""
        head = index * _NUMBERS
        self._numbers[head + _COUNT] = 0
        with _fence:  # as in `begin`
            return bool(self._numbers[head + _TAKEN_BACK])

    # -- the supervisor

    def is_active(self) -> bool:
        """Whether any horse claims several jobs at once."""
        return any(self._numbers[index * _NUMBERS + _ACTIVE] for index in range(self._count))

    def clear(self, index: int) -> None:
        """A new horse takes the place."""
        self._memory[index * _SIZE : index * _SIZE + _OUTCOMES] = bytes(_OUTCOMES)

    def batch(self, index: int) -> Batch:
        """The batch of a horse; one of size 0 while the horse changes it for another."""
        head = index * _NUMBERS
        numbers, times = self._numbers, self._times
        call_id = self._call_id(index)
        place, began, first_ended = numbers[head + _PLACE], times[head + _BEGAN], times[head + _FIRST_ENDED]
        count = numbers[head + _COUNT]
        # Each batch has an id of its own, written before the rest: if it is still there, all was of this batch.
        return Batch(call_id, count if self._call_id(index) == call_id else 0, place, began, first_ended)

    def take_back(self, index: int, batch: Batch) -> Batch | None:
        """Take back the jobs that have not begun.

        Args:
            batch: As it was read before.

        Returns:
            The batch as it is now; None if the horse has another one.
        """
        self._numbers[index * _NUMBERS + _TAKEN_BACK] = 1
        with _fence:  # for its memory barrier: the write comes before the read
            now = self.batch(index)
        return now if now.call_id == batch.call_id and now.size else None

    def outcomes(self, index: int) -> Iterator[list[Any]]:
        """The outcomes of the jobs that have ended, as arguments for settle.lua.

        An outcome that is being written at this moment is left out: the horse records it.
        """
        at = index * _SIZE + _OUTCOMES
        used = self._numbers[index * _NUMBERS + _USED]
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

    def _call_id(self, index: int) -> str:
        at = index * _SIZE + _CALL_ID
        return self._memory[at : at + 32].decode("ascii", "replace")
