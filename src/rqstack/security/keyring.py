"""The signing keys of a process, and the message authentication codes (HMAC-SHA256) that are made with them.

The purpose of a signature is part of what is signed, so a result cannot be put in the place of a job's arguments.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from rqstack.errors import SettingsError

Purpose = Literal["arguments", "result", "meta", "message", "webhook", "rq"]
"""What is signed: a job's function and arguments, its result, its meta; a message of the message backend; a job's
webhooks; or anything that RQ's own classes write, which do not say what it is."""

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

UNPURPOSED = ""
"""The purpose of version 0.1, whose signatures had none."""

DIGEST = 32
"""Bytes of a signature."""


class KeyRing:
    """The keys that sign and verify. They can change while the process runs.

    Args:
        keys: At least one. The first signs and all verify, which allows rotating keys.
        reread: Returns the keys that the settings have now, or None if nothing has changed since its last call.
    """

    def __init__(self, keys: Sequence[bytes], reread: Callable[[], Sequence[bytes] | None] = lambda: None) -> None:
        self.keys = tuple(keys)
        self._reread = reread
        self._macs: dict[str, list[hmac.HMAC]] = {}

    def macs(self, purpose: str) -> list[hmac.HMAC]:
        """A MAC for each key, to be copied before use. The list changes when the keys do.

        Copying one takes half the time of making one, because OpenSSL looks up the algorithm each time.
        """
        known = self._macs.get(purpose)
        if known is None:
            known = self._macs[purpose] = [_mac(key, purpose) for key in self.keys]
        return known

    def learn(self, purpose: str, data: bytes, signature: bytes) -> bool:
        """Look whether the settings have a new key by which a signature is valid, and if so take their keys.

        So a process that runs while keys are rotated needs no restart. The keys that it knows are still accepted.
        """
        try:
            found = self._reread() or ()
        except SettingsError:  # the file is being written, or cannot be read any more
            return False
        for key in found:
            if key not in self.keys and is_valid([_mac(key, purpose)], data, signature):
                self.keys = (*found, *(old for old in self.keys if old not in found))
                for name, macs in self._macs.items():
                    macs[:] = [_mac(each, name) for each in self.keys]
                return True
        return False


def is_valid(macs: Sequence[hmac.HMAC], data: bytes, signature: bytes) -> bool:
    """Whether one of the keys has made a signature of the data."""
    for keyed in macs:
        mac = keyed.copy()
        mac.update(data)
        if hmac.compare_digest(mac.digest(), signature):
            return True
    return False


def _mac(key: bytes, purpose: str) -> hmac.HMAC:
    # What version 0.1 signed is a pickle, which never begins with these letters.
    return hmac.new(key, f"rqstack {purpose}\0".encode() if purpose else b"", digestmod="sha256")
