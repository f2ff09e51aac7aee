"""Signed pickle: payloads are unpickled only after their signature is verified.

A payload is the pickle, a marker that names the purpose, and the HMAC-SHA256 of both. `pickle.loads` ignores what
follows a pickle, so RQ's own tools can read signed payloads.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from typing import Any

from rqstack.errors import PayloadRejected
from rqstack.security.keyring import DIGEST, PURPOSES, UNPURPOSED, KeyRing, Purpose, is_valid

log = logging.getLogger("rqstack.security")

MARKERS: dict[str, bytes] = {
    UNPURPOSED: b"rqs1",
    "arguments": b"rqsA",
    "result": b"rqsR",
    "meta": b"rqsM",
    "message": b"rqsG",
    "webhook": b"rqsW",
    "rq": b"rqsQ",
}
"""Four bytes for each purpose, before the signature."""

_PURPOSE_OF = {marker: purpose for purpose, marker in MARKERS.items()}
_TRAILER = len(MARKERS[UNPURPOSED]) + DIGEST


def is_signed(payload: bytes, ring: KeyRing) -> bool:
    """Whether a payload has a valid signature, whatever its purpose."""
    purpose = _PURPOSE_OF.get(payload[-_TRAILER:-DIGEST])
    return purpose is not None and is_valid(ring.macs(purpose), payload[:-_TRAILER], payload[-DIGEST:])


class Signer:
    """Signs bytes for one purpose.

    Args:
        ring: The keys.
        purpose: What the bytes are for. A signature for another purpose is not accepted.
    """

    def __init__(self, ring: KeyRing, purpose: Purpose) -> None:
        self._ring = ring
        self._purpose = purpose
        self._macs = ring.macs(purpose)

    def signature(self, data: bytes) -> bytes:
        """The signature of bytes: 32 bytes."""
        mac = self._macs[0].copy()
        mac.update(data)
        return mac.digest()

    def is_valid(self, data: bytes, signature: bytes) -> bool:
        """Whether a signature is that of these bytes, by any of the keys."""
        return is_valid(self._macs, data, signature) or self._ring.learn(self._purpose, data, signature)


class SignedPickle:
    """RQ's pickle with a signature.

    Args:
        ring: The keys.
        writes: The purpose of what `dumps` signs.
        reads: The purposes that `loads` accepts. Default: what it writes.
        allow_unsigned: Also read payloads without a signature, for plain RQ producers. An invalid signature is still
            rejected.
        accept_rq: Also read what RQ's own classes have signed.
    """

    def __init__(
        self,
        ring: KeyRing,
        writes: Purpose,
        reads: Sequence[Purpose] = (),
        *,
        allow_unsigned: bool = False,
        accept_rq: bool = False,
    ) -> None:
        self._ring = ring
        self._macs = ring.macs(writes)
        self._marker = MARKERS[writes]
        # A release reads what the one before it has signed: 0.1 knew no purposes.
        accepted = [*(reads or (writes,)), *(("rq",) if accept_rq else ()), UNPURPOSED]
        self._readable = {MARKERS[purpose]: ring.macs(purpose) for purpose in accepted}
        self._allow_unsigned = allow_unsigned
        self._accept_rq = accept_rq
        self._views: dict[Purpose, SignedPickle] = {}

    def for_purpose(self, purpose: Purpose) -> SignedPickle:
        """The same for one purpose alone."""
        view = self._views.get(purpose)
        if view is None:
            view = self._views[purpose] = SignedPickle(
                self._ring,
                purpose,
                # Nobody but rqstack writes results and messages that it reads.
                allow_unsigned=self._allow_unsigned and purpose in ("arguments", "meta"),
                accept_rq=self._accept_rq and purpose in ("arguments", "result", "meta"),
            )
        return view

    def for_jobs(self) -> JobPickle:
        """The same for RQ's job objects."""
        return JobPickle(self._ring, allow_unsigned=self._allow_unsigned, accept_rq=self._accept_rq)

    def dumps(self, obj: Any, /) -> bytes:
        """Pickle and sign.

        Raises:
            pickle.PicklingError, TypeError, AttributeError: The object cannot be pickled.
        """
        data = pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
        mac = self._macs[0].copy()
        mac.update(data)
        return data + self._marker + mac.digest()

    def loads(self, data: bytes, /) -> Any:
        """Verify the signature, then unpickle.

        Raises:
            PayloadRejected: The signature is missing, invalid or for another purpose. Nothing was unpickled.
        """
        marker = data[-_TRAILER:-DIGEST]
        macs = self._readable.get(marker)
        if macs is None:
            return self._without_signature(data, marker)
        signed = data[:-_TRAILER]
        signature = data[-DIGEST:]
        if is_valid(macs, signed, signature) or self._ring.learn(_PURPOSE_OF[marker], signed, signature):
            return pickle.loads(signed)
        raise PayloadRejected("bad_signature")

    def _without_signature(self, data: bytes, marker: bytes) -> Any:
        """Read a payload that has no signature which counts here, if that is allowed."""
        purpose = _PURPOSE_OF.get(marker)
        if purpose is None:
            if self._allow_unsigned:
                return pickle.loads(data)
            raise PayloadRejected("unsigned")
        raise PayloadRejected("rq_signature" if purpose == "rq" else "other_purpose")


class JobPickle(SignedPickle):
    """The serializer of the RQ jobs that rqstack makes.

    RQ does not say what it reads or writes. A job's arguments are signed before RQ asks for them; of the rest only its
    meta is a dictionary. So nothing that RQ asks to sign passes as arguments.
    """

    def __init__(self, ring: KeyRing, *, allow_unsigned: bool = False, accept_rq: bool = False) -> None:
        reads: tuple[Purpose, ...] = ("arguments", "result", "meta")
        super().__init__(ring, "result", reads, allow_unsigned=allow_unsigned, accept_rq=accept_rq)

    def for_jobs(self) -> JobPickle:
        """Itself."""
        return self

    def dumps(self, obj: Any, /) -> bytes:
        """Pickle and sign meta or a result. Errors as `SignedPickle.dumps`."""
        return self.for_purpose("meta").dumps(obj) if isinstance(obj, dict) else super().dumps(obj)


class PlainPickle:
    """RQ's plain pickle, used if no key is set. Warns once."""

    _warned = False

    def for_purpose(self, purpose: Purpose) -> PlainPickle:
        """Itself: nothing is signed."""
        assert purpose in PURPOSES
        return self

    def for_jobs(self) -> PlainPickle:
        """Itself."""
        return self

    def dumps(self, obj: Any, /) -> bytes:
        """Pickle."""
        self._warn()
        return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)

    def loads(self, data: bytes, /) -> Any:
        """Unpickle. A signature is ignored, because it cannot be verified without a key."""
        self._warn()
        return pickle.loads(data)

    def _warn(self) -> None:
        if not PlainPickle._warned:
            PlainPickle._warned = True
            log.warning(
                "RQSTACK_SECRET_KEY is not set: job payloads are not signed, so anyone who can write to Redis can run "
                "code in a worker. `make start` sets a key."
            )
