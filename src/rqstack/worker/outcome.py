"""The outcome of a job, as settle.lua records it."""

from __future__ import annotations

import zlib
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from rqstack.transport.timestamps import format_micros

Ending = Literal["finished", "failed", "stopped", "retry", "snoozed"]

_encode = msgspec.msgpack.Encoder().encode


def encode_traceback(text: str) -> bytes:
    """A traceback as RQ stores it: zlib and base64."""
    return b64encode(zlib.compress(text.encode(errors="backslashreplace")))


@dataclass(slots=True)
class Outcome:
    """The outcome of a job.

    Args:
        ending: finished; failed (it is retried, if it may be); stopped (by a command: it is not retried); retry (it
            returned `rq.Retry`); snoozed (it is put back for later, and no run is counted).
        job_id: The job.
        execution: The run of it that ended.
        queue: Its queue, as in its lease.
        value: What it returned, serialized, or the traceback; base64, as RQ stores both; b"" for None.
        began: When the run began, in Unix seconds.
        ended: When it ended.
        ran: Seconds it ran; None if that is not known.
        result_ttl: Seconds its result is kept, where its record does not say so.
        more: Optional values, listed in the head of settle.lua. No bytes, which Redis's MessagePack does not read.
        exception: The class name of the exception that it raised, or "".
        traceback: That exception as text.
    """

    ending: Ending
    job_id: str
    execution: str
    queue: str
    value: bytes = b""
    began: float = 0.0
    ended: float = 0.0
    ran: float | None = None
    result_ttl: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    exception: str = ""
    traceback: str = ""

    def arguments(self) -> tuple[bytes | str | int, ...]:
        """The values that settle.lua takes for one outcome."""
        return (
            self.ending,
            self.job_id,
            self.execution,
            self.queue,
            self.result_ttl,
            self.value,
            f"{self.began:.6f}",
            "" if self.ran is None else f"{self.ran:.6f}",
            format_micros(int(self.ended * 1e6)),
            f"{self.ended:.6f}",
            _encode(self.more) if self.more else b"",
        )
