"""Signed pickle: payloads are unpickled only after their signature is verified.

A payload is the pickle, a marker, and the HMAC-SHA256 of the pickle. `pickle.loads` ignores what follows a pickle, so
RQ's own tools can read signed payloads.
"""

from __future__ import annotations

import hmac
import logging
import pickle
from typing import Any

from rqstack.errors import PayloadRejected

log = logging.getLogger("rqstack.security")

MARKER = b"rqs1"
_DIGEST = 32
_TRAILER = len(MARKER) + _DIGEST


class SignedPickle:
    """RQ's pickle with a signature.

    Args:
        keys: At least one. The first signs and all verify, which allows rotating keys.
        allow_unsigned: Also read payloads without a signature, for plain RQ producers. An invalid signature is still
            rejected.
    """

    def __init__(self, keys: tuple[bytes, ...], *, allow_unsigned: bool = False) -> None:
        # Copying a keyed HMAC takes half the time of making one, because OpenSSL looks up the algorithm each time.
        self._macs = [hmac.new(key, digestmod="sha256") for key in keys]
        self._allow_unsigned = allow_unsigned

    def dumps(self, obj: Any, /) -> bytes:
        """Pickle and sign.

        Raises:
            pickle.PicklingError, TypeError, AttributeError: The object cannot be pickled.
        """
        data = pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
        mac = self._macs[0].copy()
        mac.update(data)
        return data + MARKER + mac.digest()

    def loads(self, data: bytes, /) -> Any:
        """Verify the signature, then unpickle.

        Raises:
            PayloadRejected: The signature is missing or invalid. Nothing was unpickled.
        """
        if data[-_TRAILER:-_DIGEST] != MARKER:
            if self._allow_unsigned:
                return pickle.loads(data)
            raise PayloadRejected("unsigned")
        signed = data[:-_TRAILER]
        signature = data[-_DIGEST:]
        for keyed in self._macs:
            mac = keyed.copy()
            mac.update(signed)
            if hmac.compare_digest(mac.digest(), signature):
                return pickle.loads(signed)
        raise PayloadRejected("bad_signature")


class PlainPickle:
    """RQ's plain pickle, used if no key is set. Warns once."""

    _warned = False

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
