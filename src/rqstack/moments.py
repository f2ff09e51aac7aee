"""Moments as RQ writes them: `rq.utils.utcformat` takes ten times as long, for every job several times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_last: tuple[int | None, str] = None, ""  # a second and its text: the next moment is mostly in the same one


def moment(micros: int) -> datetime:
    """The moment that is so many microseconds after the beginning of 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def stamp(micros: int) -> str:
    """The same as text, as RQ's `utcformat` writes it."""
    global _last
    second, left = divmod(micros, 1_000_000)
    known, text = _last
    if second != known:
        text = moment(second * 1_000_000).strftime("%Y-%m-%dT%H:%M:%S.")
        _last = second, text
    return f"{text}{left:06d}Z"
