"""Signed payloads: workers run only jobs that a holder of the secret key wrote."""

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
    """Serializes arguments and results of jobs."""

    def dumps(self, obj: Any, /) -> bytes:
        """Serialize a value."""

    def loads(self, data: bytes, /) -> Any:
        """Deserialize a value."""


def get_serializer(settings: Settings | None = None) -> Serializer:
    """The serializer that the settings select; the same object for equal settings.

    Args:
        settings: Default: `get_settings()`.

    Returns:
        Signed pickle if a key is set, else RQ's plain pickle. RQ's JSON for `RQSTACK_SERIALIZER=json`, which cannot
        carry code and so needs no signature.
    """
    settings = settings or get_settings()
    return _make_serializer(settings.serializer, settings.secret_keys(), settings.allow_unregistered)


@lru_cache(maxsize=16)
def _make_serializer(kind: str, keys: tuple[bytes, ...], allow_unsigned: bool) -> Serializer:
    if kind == "json":
        from rq.serializers import JSONSerializer

        return JSONSerializer
    from rqstack.security.signing import PlainPickle, SignedPickle

    serializer = SignedPickle(keys, allow_unsigned=allow_unsigned) if keys else PlainPickle()
    # RQ's worker passes its serializer to a spawned process as a dotted path.
    vars(serializer).update(__module__=__name__, __qualname__="Default")
    return serializer


class Default:
    """The serializer of the settings, for options that take a path: `rq worker -S rqstack.security.Default`."""

    @staticmethod
    def dumps(obj: Any, /) -> bytes:
        """As `get_serializer().dumps`."""
        return get_serializer().dumps(obj)

    @staticmethod
    def loads(data: bytes, /) -> Any:
        """As `get_serializer().loads`."""
        return get_serializer().loads(data)


def count_rejected(connection: Redis, error: PayloadRejected) -> None:
    """Count a rejected payload in the metrics.

    Args:
        connection: A client or a pipeline.
    """
    connection.hincrby(keys.PAYLOADS_REJECTED, error.reason, 1)
