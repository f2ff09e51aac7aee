"""Signed pickle: nothing is unpickled that was not written by a holder of the key.

A payload is the pickle, then a mark, then the HMAC-SHA256 of the pickle. What follows the end of a pickle is ignored by
`pickle.loads`, so RQ's own tools read signed payloads as they are.
"""

from __future__ import annotations

import hmac
import logging
import pickle
from typing import Any

from rqstack.errors import PayloadRejected

log = logging.getLogger("rqstack.security")

MARK = b"rqs1"
_DIGEST = 32
_TRAILER = len(MARK) + _DIGEST


class SignedPickle:
    """RQ's pickle with a signature.

    Args:
        keys: The first signs, all verify: that is how keys are changed. At least one.
        allow_unsigned: Read payloads without a signature too, for plain RQ producers. A wrong signature is refused
            all the same.
    """

    def __init__(self, keys: tuple[bytes, ...], *, allow_unsigned: bool = False) -> None:
        # A copy of a keyed one costs half of keying one: OpenSSL looks its algorithm up anew each time.
        self._macs = [hmac.new(key, digestmod="sha256") for key in keys]
        self._allow_unsigned = allow_unsigned

    def dumps(self, obj: Any, /) -> bytes:
        """Pickle and sign.

        Raises:
            pickle.PicklingError, TypeError, AttributeError: The object does not pickle.
        """
        data = pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)
        mac = self._macs[0].copy()
        mac.update(data)
        return data + MARK + mac.digest()

    def loads(self, data: bytes, /) -> Any:
        """Check the signature, then unpickle.

        Raises:
            PayloadRejected: There is no signature, or it is of another key or other data. Nothing was unpickled.
        """
        if data[-_TRAILER:-_DIGEST] != MARK:
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
    """RQ's pickle as it is: for a machine of one's own, where no key is set."""

    _warned = False

    def dumps(self, obj: Any, /) -> bytes:
        """Pickle."""
        self._warn()
        return pickle.dumps(obj, pickle.HIGHEST_PROTOCOL)

    def loads(self, data: bytes, /) -> Any:
        """Unpickle, signed or not: without a key a signature says nothing."""
        self._warn()
        return pickle.loads(data)

    def _warn(self) -> None:
        if not PlainPickle._warned:
            PlainPickle._warned = True
            log.warning(
                "RQSTACK_SECRET_KEY is not set: job payloads are not signed, and whoever can write to Redis can run "
                "any code in a worker. `make start` sets one."
            )
