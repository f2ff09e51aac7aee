"""What keeps a worker from running what no producer of ours wrote: signed payloads."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from rqstack.errors import PayloadRejected
from rqstack.settings import get_settings
from rqstack.transport import keys

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings

__all__ = ["Default", "PayloadRejected", "Serializer", "count_rejected", "get_serializer"]


class Serializer(Protocol):
    """What queues, workers and results use to store Python values."""

    def dumps(self, obj: Any, /) -> bytes:
        """The value as bytes."""

    def loads(self, data: bytes, /) -> Any:
        """The value of bytes."""


def get_serializer(settings: Settings | None = None) -> Serializer:
    """The serializer of the settings; the same object for the same settings.

    Args:
        settings: Default: `get_settings()`.

    Returns:
        Signed pickle where a key is set; RQ's plain pickle where none is; RQ's JSON for `RQSTACK_SERIALIZER=json`,
        which holds no code and so has no signature.
    """
    settings = settings or get_settings()
    return _make(settings.serializer, settings.secret_keys(), settings.allow_unregistered)


@lru_cache(maxsize=16)
def _make(kind: str, keys: tuple[bytes, ...], allow_unsigned: bool) -> Serializer:
    if kind == "json":
        from rq.serializers import JSONSerializer

        return JSONSerializer
    from rqstack.security.signing import PlainPickle, SignedPickle

    made = SignedPickle(keys, allow_unsigned=allow_unsigned) if keys else PlainPickle()
    # RQ's worker notes its serializer as a path, by which a spawned process finds it again.
    vars(made).update(__module__=__name__, __qualname__="Default")
    return made


class Default:
    """The serializer of this process's settings, for what takes a path: `rq worker -S rqstack.security.Default`."""

    @staticmethod
    def dumps(obj: Any, /) -> bytes:
        """As `get_serializer().dumps`."""
        return get_serializer().dumps(obj)

    @staticmethod
    def loads(data: bytes, /) -> Any:
        """As `get_serializer().loads`."""
        return get_serializer().loads(data)


def count_rejected(connection: Redis, error: PayloadRejected) -> None:
    """Count a refused payload, for the metrics.

    Args:
        connection: A client, or a pipeline.
        error: Why it was refused.
    """
    connection.hincrby(keys.PAYLOADS_REJECTED, error.reason, 1)
