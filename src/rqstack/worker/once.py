"""A client that sends nothing twice: for RQ's methods, which are not the same done again."""

from __future__ import annotations

import copy
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.exceptions import ConnectionError, TimeoutError, WatchError
from redis.retry import Retry


class _Pipeline(Pipeline):
    """redis-py calls a connection that breaks under WATCH a changed key, which has RQ do the same transaction again,
    though it may have been done. Here it is what it is: a lost connection."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        try:
            return super().execute(raise_on_error)
        except WatchError as error:
            lost = error.__context__
            if isinstance(lost, ConnectionError | TimeoutError):
                raise lost from None
            raise


class Once(Redis):
    """A client of the same Redis as another, that leaves it to its caller what to do about a lost reply.

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
