"""Connections that wait in Redis, and whose waits others end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rqstack.transport import keys
from rqstack.transport.protocol import pack

if TYPE_CHECKING:
    from rqstack.transport.raw import RawConnection

_WRITE = pack("UNLINK", keys.NEVER)
"""A write that changes nothing. While writes are paused (CLIENT PAUSE, a failover), Redis keeps it, and so what is sent
behind it. Releases without Redis's fix #14164 (2025) crash if a client is unblocked whose own command they keep."""


def open_to_wait(connection: RawConnection, *, retry: bool = True) -> int:
    """Connect. Arguments and errors as `RawConnection.open`.

    Returns:
        Redis's id of the connection, for `unblock`.
    """
    connection.open(retry=retry)
    try:
        return int(connection.call("CLIENT", "ID"))
    except BaseException:
        connection.close()  # it would be used without its id
        raise


def unblock(connection: RawConnection, client_ids: Sequence[int]) -> int:
    """End what clients wait for.

    Args:
        connection: Another connection than theirs.
        client_ids: Redis's ids of theirs.

    Returns:
        How many of them waited.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached, or refuses.
    """
    commands = [pack("CLIENT", "UNBLOCK", str(client_id)) for client_id in client_ids]
    return sum(connection.call_all([_WRITE, *commands], optional=1))
