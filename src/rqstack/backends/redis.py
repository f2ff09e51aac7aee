"""Messages in Redis: a list a queue, and a list an owner for what it has in hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace
from redis.exceptions import RedisError

from rqstack.backends.base import BaseQueue
from rqstack.errors import BackendError
from rqstack.settings import get_settings
from rqstack.transport import keys
from rqstack.transport.client import connect, explain, safe_url

if TYPE_CHECKING:
    from redis import Redis

_T = TypeVar("_T")

SCHEMES = ("redis://", "rediss://", "unix://")
WRONG = "QUEUE_CONNECTION: {!r} is not a Redis. Give host:port:db, like 127.0.0.1:6379:0, or a redis:// URL."

# Both run on Redis's clock, so that the clocks of the machines do not matter.
# KEYS: queue, leases. ARGV: prefix of the lists of owners, owner, lease in seconds.
# Puts back what owners whose lease has ended had in hand, then opens the lease of this owner.
OPEN_LEASE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  if owner ~= ARGV[2] then
    while redis.call('LMOVE', ARGV[1] .. owner, KEYS[1], 'LEFT', 'LEFT') do end
    redis.call('ZREM', KEYS[2], owner)
  end
end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
"""

# KEYS: leases. ARGV: lease in seconds, owners. An owner whose lease has ended does not get it back.
EXTEND = """
local clock = redis.call('TIME')
local until_ = clock[1] + clock[2] / 1000000 + ARGV[1]
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', until_, ARGV[i]) end
"""


class RedisQueue(BaseQueue):
    """A queue in Redis. A message survives the death of its consumer; Redis's own settings say what survives Redis.

    Args:
        name: The queue's name.
        connection: 'host:port:db', or a URL (redis://, rediss://, unix://). Default: REDIS_URL. User name and
            password come from REDIS_USERNAME and REDIS_PASSWORD, where the URL has none.

    Raises:
        BackendError: The connection is neither.
    """

    def __init__(self, name: str, connection: str = "") -> None:
        super().__init__(name, connection)
        self._url = redis_url(connection) or get_settings().redis_url
        self._client: Redis | None = None
        self._key = f"{keys.MESSAGES}{name}"
        self._leases = f"{keys.MESSAGES}{name}:leases"
        self._inbox = f"{keys.MESSAGES}{name}:inbox:"

    @property
    def client(self) -> Redis:
        if self._client is None:
            # Never sent twice by the client: a BLMOVE whose answer was lost has filled the inbox, and a second one
            # would put another message behind it. After an error the consumer calls `release`, which puts it back.
            settings = replace(get_settings(), redis_url=self._url)
            self._client = connect(settings, retries=0)
        return self._client

    def write(self, data: bytes) -> None:
        self._do(lambda: self.client.rpush(self._key, data))

    def read(self) -> bytes | None:
        found: bytes | None = self._do(lambda: self.client.lpop(self._key))
        return found

    def flush(self) -> None:
        self._do(lambda: self.client.delete(self._key))

    def __len__(self) -> int:
        return int(self._do(lambda: self.client.llen(self._key)))

    def claim(self, owner: str, lease: float, timeout: float) -> bytes | None:
        inbox = self._inbox + owner

        def take() -> Any:
            with self.client.pipeline(transaction=False) as pipe:
                pipe.eval(OPEN_LEASE, 2, self._key, self._leases, self._inbox, owner, lease + timeout)
                if timeout > 0:
                    pipe.blmove(self._key, inbox, timeout, "LEFT", "RIGHT")  # type: ignore[arg-type]  # Redis takes fractions
                else:
                    pipe.lmove(self._key, inbox, "LEFT", "RIGHT")
                return pipe.execute()[1]

        found: bytes | None = self._do(take)
        return found

    def ack(self, owner: str) -> None:
        self._do(lambda: self.client.lpop(self._inbox + owner))

    def release(self, owner: str) -> None:
        def put_back() -> None:
            while self.client.lmove(self._inbox + owner, self._key, "LEFT", "LEFT") is not None:
                pass
            self.client.zrem(self._leases, owner)

        self._do(put_back)

    def extend(self, owners: Iterable[str], lease: float) -> None:
        names = list(owners)
        if names:
            self._do(lambda: self.client.eval(EXTEND, 1, self._leases, lease, *names))

    def held(self, owner: str) -> bytes | None:
        found: bytes | None = self._do(lambda: self.client.lindex(self._inbox + owner, 0))
        return found

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _do(self, call: Callable[[], _T]) -> Any:
        try:
            return call()
        except RedisError as error:
            raise BackendError(str(explain(error, self._url))) from error


def redis_url(connection: str) -> str:
    """The URL of 'host:port:db' (port and db may be left out); a URL stays as it is, '' too.

    Raises:
        BackendError: It is neither.
    """
    if not connection:
        return ""
    if "://" in connection:
        if not connection.startswith(SCHEMES):
            raise BackendError(WRONG.format(safe_url(connection)))
        return connection
    host, _, rest = connection.partition(":")
    port, _, database = rest.partition(":")
    if not host or not (port or "6379").isdecimal() or not (database or "0").isdecimal():
        raise BackendError(WRONG.format(connection))
    return f"redis://{host}:{port or 6379}/{database or 0}"
