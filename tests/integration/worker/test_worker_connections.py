"""A horse's connections: broken as often as may be, they come back."""

from __future__ import annotations

import select

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from rqstack.transport import keys
from rqstack.transport.raw import RawConnection
from rqstack.worker.supervisor.claim_wait import BlockingClaim
from support.redis_server import RedisServer

MANY = 150
"""More than the connections that redis-py's pool makes."""


def test_a_channel_comes_back_after_many_losses(connection: Redis) -> None:
    channel = RawConnection(connection)
    for number in range(MANY):
        assert channel.call("INCR", "counter") == number + 1
        channel.close()
    waiters = BlockingClaim(connection, "w", ["rq:queue:a", "rq:queue:b"], 5)
    for _ in range(MANY // 2):
        connection.rpush("rq:queue:b", "job")
        waiters.begin()
        readable, _, _ = select.select(waiters.sockets, [], [], 10)
        assert waiters.receive([each.fileno() for each in readable]) == [1]
        waiters.stop(channel)
    assert connection.llen(keys.claim("w", "rq:queue:b")) == MANY // 2
    channel.close()


def test_a_channel_comes_back_after_a_long_outage(own_redis: RedisServer) -> None:
    client = Redis(port=own_redis.port, retry=Retry(NoBackoff(), 0))
    channel = RawConnection(client)
    assert channel.call("PING") == b"PONG"
    own_redis.kill()
    for _ in range(MANY):
        with pytest.raises(ConnectionError):
            channel.call("PING")
    own_redis.start()
    assert channel.call("PING") == b"PONG"
    channel.close()
    client.close()
