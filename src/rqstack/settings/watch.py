"""Notices that a secret was changed while a process runs: `rqstack secrets rotate` changes them without a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from rqstack.settings.fields import Settings
from rqstack.settings.loader import load
from rqstack.settings.sources import stamp

_T = TypeVar("_T")


class Watch(Generic[_T]):
    """A secret that may change in the files that settings come from.

    Args:
        name: Its environment variable.
        value: Takes it from settings.
    """

    def __init__(self, name: str, value: Callable[[Settings], _T]) -> None:
        self._name = name
        self._value = value
        self._stamp: object = None  # it may have changed since the settings were read

    def changed(self) -> _T | None:
        """The secret as it is now, or None if no file has changed since the last call. The first call reads it.

        Raises:
            SettingsError: A file cannot be read, or a value is not allowed. The next call tries again.
        """
        found = stamp(self._name)
        if found == self._stamp:
            return None
        value = self._value(load(Settings))
        self._stamp = found
        return value
