"""Decompression with a limit: a few kilobytes of zlib may stand for gigabytes."""

from __future__ import annotations

import zlib

from rqstack.errors import PayloadTooLarge
from rqstack.settings import get_settings

MIB = 1 << 20


def inflate(data: bytes, most: int) -> bytes:
    """Decompress, as `zlib.decompress`.

    Args:
        data: A zlib stream.
        most: Bytes that it, and what it stands for, may have.

    Raises:
        PayloadTooLarge: It has more. No more than `most` bytes were decompressed.
        zlib.error: It is not a zlib stream, or an incomplete one.
    """
    if len(data) > most:
        raise PayloadTooLarge(most)
    inflater = zlib.decompressobj()
    # One byte more: a stream of exactly `most` bytes must be told from a longer one.
    inflated = inflater.decompress(data, most + 1)
    if len(inflated) > most:
        raise PayloadTooLarge(most)
    if not inflater.eof:
        raise zlib.error("incomplete or truncated stream")
    return inflated


def check_size(data: bytes, most: int) -> None:
    """Check the size of what is about to be deserialized or stored.

    Raises:
        PayloadTooLarge: It has more than `most` bytes.
    """
    if len(data) > most:
        raise PayloadTooLarge(most)


def max_payload() -> int:
    """Bytes that a payload may have, by RQSTACK_MAX_PAYLOAD."""
    return get_settings().max_payload * MIB
