"""Decodes Redis replies."""

from __future__ import annotations

from collections.abc import Iterable


def decode(value: bytes | str | None) -> str:
    """A reply as text; "" for None. Bytes that are not UTF-8 are replaced."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def decode_all(values: Iterable[bytes | str | None]) -> list[str]:
    """Several replies as text."""
    return [decode(value) for value in values]
