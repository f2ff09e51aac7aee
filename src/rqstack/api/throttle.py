"""Keeps who tries passwords from trying many."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

MOST = 5
SECONDS = 60.0
ADDRESSES = 10_000


class Throttle:
    """Lets an address try a few times within a while. Kept in memory: a restart forgets it.

    Args:
        most: Tries.
        seconds: The while.
        addresses: Addresses that are remembered; of more, those that tried first are forgotten.
        clock: Seconds, never backwards.
    """

    def __init__(
        self,
        most: int = MOST,
        seconds: float = SECONDS,
        addresses: int = ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._addresses = addresses
        self._clock = clock
        self._tries: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def enter(self, address: str) -> float:
        """Count a try, if the address may make one now.

        Returns:
            0 if it may; else seconds until it may.
        """
        with self._lock:
            now = self._clock()
            tries = self._tries.setdefault(address, deque())
            while tries and tries[0] <= now - self._seconds:
                tries.popleft()
            if len(tries) >= self._most:
                return tries[0] + self._seconds - now
            tries.append(now)
            while len(self._tries) > self._addresses:
                self._tries.popitem(last=False)
            return 0

    def forget(self, address: str) -> None:
        """Forget the tries of an address: the last one was right."""
        with self._lock:
            self._tries.pop(address, None)
