"""Signed payloads: workers run only jobs that a holder of the secret key wrote."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rqstack.errors import PayloadRejected
from rqstack.settings import get_settings
from rqstack.settings.loader import is_from_sources
from rqstack.transport import keys

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.security.keyring import KeyRing, Purpose
    from rqstack.security.signing import Signer
    from rqstack.settings import Settings

__all__ = [
    "Default",
    "PayloadRejected",
    "Serializer",
    "count_rejected",
    "for_jobs",
    "for_purpose",
    "get_job_serializer",
    "get_serializer",
    "get_signer",
]


class Serializer(Protocol):
    """Serializes arguments and results of jobs."""

    def dumps(self, obj: Any, /) -> bytes:
        """Serialize a value."""

    def loads(self, data: bytes, /) -> Any:
        """Deserialize a value."""


def get_serializer(settings: Settings | None = None) -> Serializer:
    """The serializer that the settings select, for RQ's own queues and workers; the same object for equal settings.

    RQ does not tell a serializer what it writes. So signatures have the purpose `rq`, which is accepted only with
    `RQSTACK_ACCEPT_RQ_SIGNATURES=1`. It reads a job's arguments and meta, but no results: RQ's worker would take one
    that was put in the place of the arguments. `for_purpose` gives the serializers that rqstack uses.

    Args:
        settings: Default: `get_settings()`.

    Returns:
        Signed pickle if a key is set, else RQ's plain pickle. RQ's JSON for `RQSTACK_SERIALIZER=json`, which cannot
        carry code and so needs no signature.
    """
    return _of(settings, "rq")


def get_job_serializer(settings: Settings | None = None, *, allow_unsigned: bool | None = None) -> Serializer:
    """The serializer for RQ's `Job.fetch`: it reads a job's arguments, meta and result.

    Args:
        settings: Default: `get_settings()`.
        allow_unsigned: Whether to read payloads without a signature. Default: as `RQSTACK_ALLOW_UNREGISTERED` says.
    """
    return _of(settings, "job", allow_unsigned=allow_unsigned)


def for_purpose(serializer: Any, purpose: Purpose) -> Serializer:
    """A serializer for one purpose: what it signs it alone reads, and nothing signed for another purpose.

    Args:
        serializer: From `get_serializer`, say. One that signs nothing, as RQ's JSON, is returned as it is.
        purpose: See `rqstack.security.keyring`.
    """
    view = getattr(serializer, "for_purpose", None)
    return serializer if view is None else view(purpose)  # type: ignore[no-any-return]


def for_jobs(serializer: Any) -> Serializer:
    """A serializer for RQ's job objects, as `get_job_serializer` makes it from settings."""
    view = getattr(serializer, "for_jobs", None)
    return serializer if view is None else view()  # type: ignore[no-any-return]


def get_signer(purpose: Purpose, settings: Settings | None = None) -> Signer | None:
    """What signs bytes for one purpose and verifies them; None if no key is set.

        signer = get_signer("webhook")
        signature = signer.signature(data)
        signer.is_valid(data, signature)

    Args:
        purpose: See `rqstack.security.keyring`.
        settings: Default: `get_settings()`.
    """
    ring = _ring_of(settings or get_settings())
    if ring is None:
        return None
    from rqstack.security.signing import Signer

    return Signer(ring, purpose)


def _of(settings: Settings | None, user: Literal["rq", "job"], *, allow_unsigned: bool | None = None) -> Serializer:
    settings = settings or get_settings()
    if allow_unsigned is None:
        allow_unsigned = settings.allow_unregistered
    return _make_serializer(
        user, settings.serializer, _ring_of(settings), allow_unsigned, settings.accept_rq_signatures
    )


@lru_cache(maxsize=16)
def _make_serializer(
    user: Literal["rq", "job"], kind: str, ring: KeyRing | None, allow_unsigned: bool, accept_rq: bool
) -> Serializer:
    if kind == "json":
        from rq.serializers import JSONSerializer

        return JSONSerializer
    from rqstack.security.signing import JobPickle, PlainPickle, SignedPickle

    if ring is None:
        serializer: Any = PlainPickle()
    elif user == "job":
        serializer = JobPickle(ring, allow_unsigned=allow_unsigned, accept_rq=accept_rq)
    else:
        serializer = SignedPickle(ring, "rq", ("arguments", "meta"), allow_unsigned=allow_unsigned, accept_rq=accept_rq)
    # RQ's worker passes its serializer to a spawned process as a dotted path.
    vars(serializer).update(__module__=__name__, __qualname__="Default")
    return serializer  # type: ignore[no-any-return]


def _ring_of(settings: Settings) -> KeyRing | None:
    """The keys of the settings; None if there is none."""
    signing_keys = settings.secret_keys()
    return _ring(signing_keys, is_from_sources("secret_key", settings.secret_key)) if signing_keys else None


@lru_cache(maxsize=16)
def _ring(signing_keys: tuple[bytes, ...], are_from_sources: bool) -> KeyRing:
    """The keys, shared by all that signs in this process, so that all learn a new one at once.

    Args:
        are_from_sources: False for keys that the program gave: they do not change.
    """
    from rqstack.security.keyring import KeyRing
    from rqstack.settings.watch import Watch

    if not are_from_sources:
        return KeyRing(signing_keys)
    return KeyRing(signing_keys, Watch("RQSTACK_SECRET_KEY", lambda settings: settings.secret_keys()).changed)


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

    @staticmethod
    def for_purpose(purpose: Purpose) -> Serializer:
        """As `for_purpose(get_serializer(), …)`."""
        return for_purpose(get_serializer(), purpose)

    @staticmethod
    def for_jobs() -> Serializer:
        """As `get_job_serializer()`."""
        return get_job_serializer()


def count_rejected(connection: Redis, error: PayloadRejected) -> None:
    """Count a rejected payload in the metrics.

    Args:
        connection: A client or a pipeline.
    """
    connection.hincrby(keys.PAYLOADS_REJECTED, error.reason, 1)
