"""Wait for an event, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    seconds: float = 60,
    what: str = "",
    *,
    log: Callable[[], str] | None = None,
    errors: tuple[type[Exception], ...] = (),
    pause: float = 0.02,
) -> T:
    """Wait until a condition is true, and return its value.

    Args:
        condition: Asked again and again.
        seconds: The test fails after these.
        what: Names the event in the failure.
        log: Gives what the failure shows.
        errors: Those that mean 'not yet'; the failure shows the last one.
        pause: Seconds between two looks.
    """
    deadline = time.monotonic() + seconds
    while True:
        problem: Exception | None = None
        try:
            if found := condition():
                return found
        except errors as error:
            problem = error
        if time.monotonic() > deadline:
            parts = (what, str(problem or ""), log() if log else "")
            raise AssertionError("\n".join([f"not within {seconds} s", *filter(None, parts)])) from problem
        time.sleep(pause)
