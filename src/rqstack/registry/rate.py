"""Rate limits: how often a task may start, over all workers together."""

from __future__ import annotations

import re
from dataclasses import dataclass

UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_SHORT = {"s": "second", "sec": "second", "m": "minute", "min": "minute", "h": "hour", "d": "day"}
_RATE = re.compile(r"\s*(\d{1,9})\s*(?:/|per\b)\s*(\d{1,6})?\s*([A-Za-z]+)\s*")


@dataclass(frozen=True, slots=True)
class Rate:
    """A number of starts in a length of time.

    Args:
        count: Starts.
        seconds: The length of time.
    """

    count: int
    seconds: int

    def __str__(self) -> str:
        for unit, length in reversed(UNITS.items()):
            if self.seconds % length == 0:
                number = self.seconds // length
                return f"{self.count}/{unit}" if number == 1 else f"{self.count}/{number} {unit}s"
        raise AssertionError  # a second divides every whole number


def parse(text: str) -> Rate:
    """Read a rate: "5/second", "5/s", "100 per minute", "1/10 seconds".

    Raises:
        ValueError: The text is no rate; the message names it and what is allowed.
    """
    match = _RATE.fullmatch(text) if isinstance(text, str) else None
    unit = match[3].lower() if match else ""
    unit = _SHORT.get(unit, unit.removesuffix("s"))
    if match is None or unit not in UNITS or int(match[1]) < 1 or int(match[2] or 1) < 1:
        units = ", ".join(UNITS)
        raise ValueError(f"rate_limit={text!r}: should be a number per unit, such as '5/second' (units: {units}).")
    return Rate(int(match[1]), int(match[2] or 1) * UNITS[unit])
