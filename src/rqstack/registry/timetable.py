"""When something repeats: a cron expression in a time zone, or an interval. Pure arithmetic on whole seconds.

Times are seconds since the epoch, UTC. Rules for cron where clocks are changed:

- An expression whose hour is `*` follows absolute time: in the hour that comes twice it fires in both, in the hour that
  does not exist it does not fire.
- Any other expression fires once for each time that the wall clock should show. What falls into the hour that comes
  twice fires in the first of the two; all that falls into the hour that does not exist fires once, at its end.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any, Protocol
from zoneinfo import ZoneInfo

EPOCH = datetime(1970, 1, 1)
ALIASES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_STEP = 86_400 // 2
_RANDOM = re.compile(r"(?<![a-z])[hr](?![a-z])", re.IGNORECASE)


class Timetable(Protocol):
    """When something repeats."""

    @property
    def text(self) -> str:
        """The timetable as it was written."""

    @property
    def zone(self) -> str:
        """The name of its time zone."""

    def next_after(self, instant: int) -> int:
        """The first firing later than an instant."""


class Cron:
    """A cron expression in a time zone.

    Args:
        text: Five fields (minute hour day month weekday), six (the sixth is seconds, as RQ and croniter have it), or
            one of `ALIASES`. Names, ranges, lists, steps, `L`, and `5#3` for the third Friday are allowed.
        zone: An IANA name such as `Europe/London`.

    Raises:
        ValueError: The expression or the zone is wrong, or the expression never fires; the message names it.
    """

    def __init__(self, text: str, zone: str = "UTC") -> None:
        self.text = text.strip() if isinstance(text, str) else text
        self.zone = zone
        self._tz: tzinfo = time_zone(zone)
        self._iterator = _parse(self.text)
        self.every_hour = self._iterator.expanded[1] == ["*"]

    def __repr__(self) -> str:
        return f"Cron({self.text!r}, {self.zone!r})"

    def next_after(self, instant: int) -> int:
        """The first firing later than an instant, in seconds since the epoch."""
        cursor, known = instant, instant
        offset = self._offset(cursor)
        while True:
            wall = self._next_wall(cursor + offset)
            candidate = wall - offset
            edge = self._transition(known, candidate)
            if edge is None:
                if self.every_hour or not self._is_repeated(candidate):
                    return candidate
                cursor = known = candidate
                continue
            after = self._offset(edge)
            if not self.every_hour and wall < edge + after:
                return edge  # in the hour that does not exist
            cursor, known, offset = edge - 1, edge, after

    def _next_wall(self, wall: int) -> int:
        moment = self._iterator.get_next(datetime, start_time=EPOCH + timedelta(seconds=wall))
        return int((moment - EPOCH).total_seconds())

    def _offset(self, instant: int) -> int:
        shift = datetime.fromtimestamp(instant, self._tz).utcoffset()
        assert shift is not None
        return round(shift.total_seconds())

    def _is_repeated(self, instant: int) -> bool:
        return datetime.fromtimestamp(instant, self._tz).fold == 1

    def _transition(self, start: int, end: int) -> int | None:
        """The first instant in (start, end] at which the zone's offset changes."""
        if self._tz is UTC:
            return None
        offset, low = self._offset(start), start
        while low < end:
            high = min(low + _STEP, end)
            if self._offset(high) != offset:
                while high - low > 1:
                    middle = (low + high) // 2
                    if self._offset(middle) == offset:
                        low = middle
                    else:
                        high = middle
                return high
            low = high
        return None


class Interval:
    """A fixed interval, counted from the epoch: a restart neither moves nor repeats a firing.

    Args:
        length: Seconds or a timedelta; whole seconds, 1 or more.

    Raises:
        ValueError: It is negative, zero, or has a fraction of a second.
    """

    zone = "UTC"

    def __init__(self, length: float | timedelta) -> None:
        seconds = length.total_seconds() if isinstance(length, timedelta) else length
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 1 or seconds != int(seconds):
            raise ValueError(f"every={length!r}: an interval should be whole seconds, 1 or more.")
        self.seconds = int(seconds)

    def __repr__(self) -> str:
        return f"Interval({self.seconds})"

    @cached_property
    def text(self) -> str:
        """`every 90 s`"""
        return f"every {self.seconds} s"

    def next_after(self, instant: int) -> int:
        """The first firing later than an instant, in seconds since the epoch."""
        return (instant // self.seconds + 1) * self.seconds


def parse(text: str, zone: str = "UTC") -> Timetable:
    """A timetable from what `Timetable.text` and `zone` gave.

    Raises:
        ValueError: as `Cron`.
    """
    if isinstance(text, str) and (match := re.fullmatch(r"every (\d+) s", text)):
        return Interval(int(match[1]))
    return Cron(text, zone)


def latest(timetable: Timetable, after: int, upto: int) -> int | None:
    """The last firing later than `after` and not later than `upto`, or None. Cheap however far these are apart."""
    step = 1
    while True:
        start = max(after, upto - step)
        found = timetable.next_after(start)
        if found <= upto:
            while (following := timetable.next_after(found)) <= upto:
                found = following
            return found
        if start == after:
            return None
        step *= 4


def time_zone(name: str) -> tzinfo:
    """A time zone by its IANA name.

    Raises:
        ValueError: This machine knows no such zone.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, OSError):
        raise ValueError(f"timezone={name!r}: is no time zone of this machine, such as 'Europe/London'.") from None


def _parse(text: str) -> Any:
    from croniter import croniter

    wanted = "should be five fields (minute hour day month weekday), six (and seconds) or an alias such as @daily"
    if not isinstance(text, str):
        raise ValueError(f"cron={text!r}: {wanted}, for example '0 3 * * *'.")
    if text.startswith("@"):
        if text.lower() not in ALIASES:
            raise ValueError(f"cron={text!r}: is no alias; there are {', '.join(ALIASES)}.")
    elif len(text.split()) not in (5, 6):
        raise ValueError(f"cron={text!r}: {wanted}, for example '0 3 * * *'.")
    elif any(_RANDOM.search(field) for field in text.split()):
        raise ValueError(f"cron={text!r}: H and R draw times at random, which would differ between schedulers.")
    try:
        iterator = croniter(text.lower() if text.startswith("@") else text, EPOCH)
        # From a fixed day, so that an expression is right or wrong whenever it is read.
        iterator.get_next(datetime, start_time=datetime(2000, 1, 1))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        reason = "it never fires" if "find next date" in str(error) else str(error)
        raise ValueError(f"cron={text!r}: {reason}. It {wanted}, for example '0 3 * * *'.") from None
    return iterator
