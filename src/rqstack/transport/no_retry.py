"""A client that sends no command twice: RQ's methods are not idempotent."""

from __future__ import annotations

import copy
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import ConnectionError, TimeoutError, WatchError
from redis.retry import Retry


class _Pipeline(Pipeline):
    """Reports a connection that breaks under WATCH as lost.

    redis-py reports it as a changed key, so RQ would repeat a transaction that may have been done.
    """

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        try:
            return super().execute(raise_on_error)
        except WatchError as error:
            lost = error.__context__
            if isinstance(lost, ConnectionError | TimeoutError):
                raise lost from None
            raise


class NoRetryRedis(Redis):
    """A client of the same Redis as another; what to do about a lost reply is up to its caller.

    Args:
        client: The other client: same address, user and TLS.
    """

    def __init__(self, client: Redis) -> None:
        pool: Any = copy.copy(client.connection_pool)
        pool.connection_kwargs = {
            **pool.connection_kwargs,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            "retry_on_timeout": False,
        }
        pool.reset()
        super().__init__(connection_pool=pool)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """As redis-py's."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
