"""The `limits` library's moving window in Redis, by Redis's clock."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis.exceptions import ResponseError

from rqstack.transport.errors import is_damage

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.registry.rate import Rate


log = logging.getLogger("rqstack.limiting")


class MovingWindow:
    """Counts starts in a moving window.

    Args:
        connection: Redis.
        prefix: How the keys begin.
    """

    def __init__(self, connection: Redis, prefix: str) -> None:
        self._storage = _ByRedisClock(connection, prefix)
        self._limiter = MovingWindowRateLimiter(self._storage)

    def enter(self, name: str, rate: Rate) -> float:
        """Count a start, if there is room for one.

        Returns:
            0 if it was counted; else seconds until there is room.
        """
        item = RateLimitItemPerSecond(rate.count, rate.seconds, namespace="window")
        self._storage.read_clock()
        try:
            if self._limiter.hit(item, name):
                return 0
            reset = self._limiter.get_window_stats(item, name).reset_time
        except ResponseError as error:
            if not is_damage(error):
                raise
            log.error("The window of %s in Redis is damaged, and is dropped: %s", name, error)
            self._limiter.clear(item, name)
            return 0
        # The oldest start cannot be later than now: somebody else has written it.
        reset = min(reset, self._storage.now + rate.seconds)
        return max(reset - self._storage.now, 0.001)


class _ByRedisClock(RedisStorage):
    """The library uses each machine's clock, and these differ; this uses Redis's clock for all.

    Its scripts get the time as an argument, so what it does is repeated here with another clock.
    """

    def __init__(self, connection: Redis, prefix: str) -> None:
        super().__init__("redis://", connection_pool=connection.connection_pool, key_prefix=prefix)
        self._redis = connection
        self.now = 0.0

    def read_clock(self) -> None:
        """Ask Redis what time it is."""
        seconds, microseconds = self._redis.time()
        self.now = seconds + microseconds / 1e6

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        arguments: list[str | int] = [f"{self.now:.6f}", limit, expiry, amount]
        return bool(self.lua_acquire_moving_window([self.prefixed_key(key)], arguments))

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        window = self.lua_moving_window([self.prefixed_key(key)], [f"{self.now - expiry:.6f}", limit])
        return (float(window[0]), int(window[1])) if window else (self.now, 0)
