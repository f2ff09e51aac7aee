"""Makes RQ's own readers safe against damaged records, for the processes of rqstack that use them.

RQ trusts what is in Redis: one name that is not UTF-8 ends `Queue.all`, one key of another type the listing of all
jobs, and a small zlib bomb takes all memory. RQ has no option for any of that, so a few of its functions are replaced.
"""

from __future__ import annotations

import functools
import logging
import sys
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError, ResponseError

from rqstack.errors import PayloadTooLarge
from rqstack.security.bounded import inflate, max_payload
from rqstack.transport import keys
from rqstack.transport.damaged import LogOnce, name_of
from rqstack.transport.errors import is_wrong_type

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("rqstack.security")

_damage = LogOnce(log)

_EMPTY: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("LLEN", "ZCARD", "SCARD", "HLEN", "XLEN", "ZCOUNT"), lambda: 0),
    **dict.fromkeys(("SMEMBERS",), set),
    **dict.fromkeys(("HGETALL",), dict),
    **dict.fromkeys(("LRANGE", "ZRANGE", "ZRANGEBYSCORE", "XRANGE", "XREVRANGE"), list),
    **dict.fromkeys(("HGET", "GET", "ZSCORE", "LINDEX"), lambda: None),
}
"""What a read of a missing key returns."""

_NAMES = frozenset(("SMEMBERS", "LRANGE", "ZRANGE"))
"""Reads whose replies RQ takes for names."""

_PREFIXES = {keys.QUEUES: keys.QUEUE.encode(), keys.WORKERS: keys.WORKER.encode()}
"""How each name of an index begins."""


def log_once(key: str, message: str, *arguments: object) -> None:
    """Log an error about a damaged record, once per process."""
    _damage.error(key, message, *arguments)


def guard_rq() -> None:
    """Replace RQ's readers in this process. Calling it again changes nothing."""
    import rq.job
    import rq.results
    from rq.job import Job

    modules: tuple[Any, ...] = (rq.job, rq.results)
    if isinstance(modules[0].zlib, _BoundedZlib):
        return
    for module in modules:
        module.zlib = _BoundedZlib("zlib")
    _guard_as_text()
    job_class: Any = Job
    job_class.restore = _restoring(job_class.restore)


def guard_client(client: Redis) -> Redis:
    """Let a client that only shows what is in Redis take a key of the wrong type for a missing one, and leave out names
    that are not UTF-8, or no queue's or worker's.

    Args:
        client: It is changed, and returned.
    """
    execute: Callable[..., Any] = client.execute_command

    @functools.wraps(execute)
    def guarded(*arguments: Any, **options: Any) -> Any:
        name = str(arguments[0]).upper()
        try:
            reply = execute(*arguments, **options)
        except ResponseError as error:
            if not is_wrong_type(error) or (name not in _EMPTY and name != "HMGET"):
                raise
            log_once(f"type {arguments[1]!r}", "The key %.200r is of the wrong type and is left out", arguments[1])
            return [None] * (len(arguments) - 2) if name == "HMGET" else _EMPTY[name]()
        if name in _NAMES and isinstance(reply, list | set):
            prefix = _PREFIXES.get(str(arguments[1]), b"")
            kept = [member for member in reply if _is_name(member, prefix)]
            if len(kept) < len(reply):
                log_once(f"names {arguments[1]!r}", "%.200r has invalid names; they are left out", arguments[1])
                return type(reply)(kept)
        return reply

    client.execute_command = guarded  # type: ignore[method-assign]
    return client


class _BoundedZlib(ModuleType):
    """The module zlib as RQ uses it, with a limit."""

    error = zlib.error
    compress = staticmethod(zlib.compress)

    @staticmethod
    def decompress(data: bytes) -> bytes:
        """As `inflate`, with the limit of the settings."""
        try:
            return inflate(data, max_payload())
        except PayloadTooLarge:
            # RQ takes what does not decompress for data that was not compressed.
            raise _TooLarge from None


class _TooLarge(Exception):
    """Not a `zlib.error`, which RQ would ignore."""

    def __str__(self) -> str:
        return str(PayloadTooLarge(max_payload()))


def _guard_as_text() -> None:
    import rq.utils

    original = rq.utils.as_text

    def as_text(value: bytes | str) -> str:
        return value.decode(errors="backslashreplace") if isinstance(value, bytes) else original(value)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "rq" and getattr(module, "as_text", None) is original:
            module.as_text = as_text  # type: ignore[attr-defined]


def _restoring(restore: Callable[..., Any]) -> Callable[..., Any]:
    from rq.exceptions import NoSuchJobError

    @functools.wraps(restore)
    def restored(job: Any, raw: Any) -> Any:
        try:
            return restore(job, raw)
        except (NoSuchJobError, RedisError):
            raise
        except Exception as error:
            # RQ's callers expect this one: to them a damaged job does not exist.
            raise NoSuchJobError(f"The record of job {job.id} in Redis is damaged: {error}") from error

    return restored


def _is_name(member: Any, prefix: bytes) -> bool:
    return not isinstance(member, bytes) or (member.startswith(prefix) and name_of(member) is not None)
