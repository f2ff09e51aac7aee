"""Checks queue names, to tell a misspelt queue from an empty one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rqstack.errors import UnknownQueue, did_you_mean
from rqstack.transport import keys
from rqstack.transport.replies import decode_all

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings


def known_queues(connection: Redis, settings: Settings) -> list[str]:
    """The queues in Redis and those of the settings, sorted."""
    members: Any = connection.smembers(keys.QUEUES)
    existing = {key.removeprefix(keys.QUEUE) for key in decode_all(members)}
    return sorted(existing | set(settings.queues) | set(settings.long_queues))


def check_queues(names: Iterable[str], connection: Redis, settings: Settings, more: Iterable[str] = ()) -> None:
    """Reject unknown queue names.

    Args:
        more: Further known names.

    Raises:
        UnknownQueue: The message lists the known queues.
    """
    known = sorted({*known_queues(connection, settings), *more})
    for name in names:
        if name not in known:
            raise UnknownQueue(
                f"no queue is named {name!r}.{did_you_mean(name, known)} Known are {', '.join(known)}; add others to "
                "RQSTACK_QUEUES."
            )
