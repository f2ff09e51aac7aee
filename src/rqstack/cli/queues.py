"""Which queues there are, so that a misspelt one is told from an empty one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rqstack.cli.snapshot import as_text
from rqstack.errors import UnknownQueue
from rqstack.transport import keys

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings


def known_queues(connection: Redis, settings: Settings) -> list[str]:
    """The queues that Redis holds, and those of the settings, sorted."""
    found = {as_text(key).removeprefix(keys.QUEUE) for key in connection.smembers(keys.QUEUES)}
    return sorted(found | set(settings.queues) | set(settings.long_queues))


def check_queues(names: Iterable[str], connection: Redis, settings: Settings, more: Iterable[str] = ()) -> None:
    """Refuse a queue that is not known.

    Args:
        names: As typed.
        connection: Redis.
        settings: Whose queues are known, used or not.
        more: Names that are known besides.

    Raises:
        UnknownQueue: The message lists those that are known.
    """
    known = sorted({*known_queues(connection, settings), *more})
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UnknownQueue(
                f"no queue is named {name!r}.{hint} Known are {', '.join(known)}; RQSTACK_QUEUES adds to them."
            )
