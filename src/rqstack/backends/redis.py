"""Messages in Redis: one list per queue, and one list per owner for the message that it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace
from redis.exceptions import RedisError, ResponseError

from rqstack.backends.base import BaseQueue
from rqstack.errors import BackendError
from rqstack.settings import cluster_url, get_settings
from rqstack.transport import keys
from rqstack.transport.client import connect, explain, safe_url
from rqstack.transport.damaged import drop_wrong_types
from rqstack.transport.schema import SharedSchema
from rqstack.transport.scripts import Script

if TYPE_CHECKING:
    from redis import Redis

_T = TypeVar("_T")

SCHEMES = ("redis://", "rediss://", "unix://", *cluster_url.SCHEMES)
INVALID_CONNECTION = (
    "QUEUE_CONNECTION: {!r} is not a Redis. Give host:port:db, like 127.0.0.1:6379:0, or a redis:// URL."
)

_OPEN_LEASE = Script("transport/lua/write.lua", "backends/lua/open_lease.lua")
_EXTEND_LEASES = Script("transport/lua/write.lua", "backends/lua/extend_leases.lua")


class RedisQueue(BaseQueue):
    """A queue in Redis. Messages survive the death of their consumer; Redis's persistence settings decide the rest.

    Args:
        connection: 'host:port:db', or a URL (as REDIS_URL). Default: REDIS_URL. If the URL has no user
            name and password, REDIS_USERNAME and REDIS_PASSWORD apply.

    Raises:
        BackendError: The connection is neither.
    """

    def __init__(self, name: str, connection: str = "") -> None:
        super().__init__(name, connection)
        self._url = redis_url(connection) or get_settings().redis_url
        self._client: Redis | None = None
        self._schema = SharedSchema(get_settings(), self._url)
        self._key = f"{keys.MESSAGES}{name}"
        self._leases = f"{keys.MESSAGES}{name}:leases"
        self._inbox = f"{keys.MESSAGES}{name}:inbox:"

    @property
    def client(self) -> Redis:
        if self._client is None:
            # No retries: a BLMOVE whose reply was lost may have filled the inbox, and a retry would claim a second
            # message. After an error the consumer calls `release` instead.
            settings = replace(get_settings(), redis_url=self._url)
            self._client = connect(settings, retries=0)
        return self._client

    def write(self, data: bytes) -> None:
        self._run(lambda: self.client.rpush(self._key, data))

    def read(self) -> bytes | None:
        data: bytes | None = self._run(lambda: self.client.lpop(self._key))
        return data

    def flush(self) -> None:
        self._run(lambda: self.client.delete(self._key))

    def __len__(self) -> int:
        return int(self._run(lambda: self.client.llen(self._key)))

    def claim(self, owner: str, lease: float, timeout: float) -> bytes | None:
        inbox = self._inbox + owner

        def move() -> Any:
            with self.client.pipeline(transaction=False) as pipe:
                pipe.eval(_OPEN_LEASE.source.decode(), 2, self._key, self._leases, self._inbox, owner, lease + timeout)
                if timeout > 0:
                    pipe.blmove(self._key, inbox, timeout, "LEFT", "RIGHT")  # type: ignore[arg-type]  # Redis takes fractions
                else:
                    pipe.lmove(self._key, inbox, "LEFT", "RIGHT")
                return pipe.execute()[1]

        data: bytes | None = self._run(move)
        return data

    def ack(self, owner: str) -> None:
        self._run(lambda: self.client.lpop(self._inbox + owner))

    def release(self, owner: str) -> None:
        def return_messages() -> None:
            while self.client.lmove(self._inbox + owner, self._key, "LEFT", "LEFT") is not None:
                pass
            self.client.zrem(self._leases, owner)

        self._run(return_messages)

    def extend(self, owners: Iterable[str], lease: float) -> None:
        names = list(owners)
        if names:
            self._run(lambda: _EXTEND_LEASES(self.client, [self._leases], [lease, *names]))

    def held(self, owner: str) -> bytes | None:
        data: bytes | None = self._run(lambda: self.client.lindex(self._inbox + owner, 0))
        return data

    def join(self) -> bool:
        return bool(self._run(lambda: self._schema.join(self.client)))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _run(self, call: Callable[[], _T]) -> Any:
        try:
            try:
                return call()
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                # Damaged by somebody; else no message of this queue, or of those behind it, would be read any more.
                drop_wrong_types(self.client, {self._key: "list", self._leases: "zset"})
                return call()
        except RedisError as error:
            raise BackendError(str(explain(error, self._url))) from error


def redis_url(connection: str) -> str:
    """Convert 'host:port:db' (port and db are optional) to a URL. A URL and '' are returned unchanged.

    Raises:
        BackendError: It is neither.
    """
    if not connection:
        return ""
    if "://" in connection:
        if not connection.startswith(SCHEMES):
            raise BackendError(INVALID_CONNECTION.format(safe_url(connection)))
        return connection
    host, _, rest = connection.partition(":")
    port, _, database = rest.partition(":")
    if not host or not (port or "6379").isdecimal() or not (database or "0").isdecimal():
        raise BackendError(INVALID_CONNECTION.format(safe_url(connection)))
    return f"redis://{host}:{port or 6379}/{database or 0}"
