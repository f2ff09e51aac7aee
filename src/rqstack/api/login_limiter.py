"""Limits login attempts per address."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

MAX_ATTEMPTS = 5
PERIOD = 60.0
MAX_ADDRESSES = 10_000


class LoginLimiter:
    """Allows a number of attempts per address within a sliding period. State is in memory, so a restart clears it.

    Args:
        max_attempts: Attempts allowed within the period.
        period: Seconds.
        max_addresses: Addresses tracked; the oldest are dropped beyond that.
        clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        max_attempts: int = MAX_ATTEMPTS,
        period: float = PERIOD,
        max_addresses: int = MAX_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_attempts = max_attempts
        self._period = period
        self._max_addresses = max_addresses
        self._clock = clock
        self._attempts: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def acquire(self, address: str) -> float:
        """Count an attempt if it is allowed.

        Returns:
            0 if it is allowed, else the seconds until the next attempt is.
        """
        with self._lock:
            now = self._clock()
            attempts = self._attempts.setdefault(address, deque())
            while attempts and attempts[0] <= now - self._period:
                attempts.popleft()
            if len(attempts) >= self._max_attempts:
                return attempts[0] + self._period - now
            attempts.append(now)
            while len(self._attempts) > self._max_addresses:
                self._attempts.popitem(last=False)
            return 0

    def reset(self, address: str) -> None:
        """Clear the attempts of an address after a successful login."""
        with self._lock:
            self._attempts.pop(address, None)
