"""Redis Cluster, for a key prefix with a hash tag: all keys are in one slot, so one node at a time serves everything.

Connections find that node when they connect, and disconnect when it says that it does not serve the slot any more: the
next use finds the new one, after a failover and after the slot has moved. So everything that works with a plain client
works with a cluster, as with Sentinel: pools, pipelines, pub/sub, blocking commands, RQ itself.

Finding the node needs no rights on CLUSTER commands: any node that does not serve the slot answers a command for one
of its keys with MOVED and the address of the node that does.

While a slot moves, key by key, a script that comes upon a key that is not there fails wherever it is, also after its
first write. So every script begins with `GUARD` (see `rqstack.transport.scripts`).
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, cast

from redis import Connection, ConnectionPool, Redis, SSLConnection
from redis.connection import parse_url
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from rqstack.errors import SettingsError
from rqstack.settings.cluster_url import node_urls
from rqstack.transport import keys

Address = tuple[str, int]

_NOT_SERVED = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ", "READONLY ", "MASTERDOWN ", "UNBLOCKED ")
_NOT_LOCAL = "non local key in a cluster node"


class SlotLost(ConnectionError):
    """The node does not serve the slot of the key prefix, or not all of it while the slot moves."""


class _Moved(Exception):
    """The node that was asked names another one."""

    def __init__(self, address: Address) -> None:
        super().__init__(f"moved to {address[0]}:{address[1]}")
        self.address = address


class SlotMaster:
    """The node that serves the slot, as the connections of a client found it last.

    Args:
        nodes: The nodes that the URL names.
    """

    def __init__(self, nodes: list[Address]) -> None:
        self.nodes = nodes
        self.last: Address | None = None

    def candidates(self) -> list[Address]:
        """Addresses to try, in order. Processes begin with different nodes."""
        start = os.getpid() % len(self.nodes)
        return [*([self.last] if self.last else []), *self.nodes[start:], *self.nodes[:start]]


class _SlotConnection(Connection):
    """A connection to the node that serves the slot of the key prefix.

    Args:
        slot_master: Shared by all connections of a client.
        options: As for redis-py's connections.
    """

    def __init__(self, *, slot_master: SlotMaster, **options: Any) -> None:
        super().__init__(redis_connect_func=_log_in_and_probe, **options)  # type: ignore[no-untyped-call]
        self.slot_master = slot_master

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """Connect, if it is not connected. redis-py's `connect` and `send_command` call this."""
        if self._sock is not None:
            return
        queue = deque(self.slot_master.candidates())
        tried: set[Address] = set()
        problem: Exception | None = None
        while queue:
            address = queue.popleft()
            if address in tried:
                continue
            tried.add(address)
            self.host, self.port = address
            try:
                super().connect_check_health(check_health, retry_socket_connect=False)
            except _Moved as moved:
                self._drop()
                queue.appendleft(moved.address)
                continue
            except (ConnectionError, TimeoutError) as error:
                problem = error
                continue
            self.slot_master.last = address
            return
        self.slot_master.last = None
        # Every node failed, or named one that failed: they do not know the new one yet.
        raise problem or SlotLost("no node says that it serves the key prefix")

    def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's; an answer that says that the slot is elsewhere is a lost connection."""
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            if (lost := self.slot_lost(error)) is None:
                raise
            self._drop()
            raise lost from error

    def _drop(self) -> None:
        self.disconnect()  # type: ignore[no-untyped-call]

    @staticmethod
    def slot_lost(error: ResponseError | str) -> SlotLost | None:
        """The exception for an error that says that the slot is elsewhere; `error` is redis-py's, or the reply."""
        text = str(error)
        if isinstance(error, str):
            is_lost = text.startswith(_NOT_SERVED)
        else:  # redis-py cuts the code off
            is_lost = isinstance(error, AskError | ClusterDownError | TryAgainError | ReadOnlyError)
            is_lost = is_lost or text.startswith("UNBLOCKED ")
        return SlotLost(text) if is_lost or _NOT_LOCAL in text else None


class SlotConnection(_SlotConnection):
    """A connection without TLS."""


class SlotSSLConnection(_SlotConnection, SSLConnection):
    """A connection with TLS; certificates are checked against the name of each node."""


def _log_in_and_probe(connection: Any) -> None:
    connection.on_connect()
    connection.send_command("EXISTS", keys.SCHEMA, check_health=False)  # any key of the slot
    try:
        # Not the connection's own method: it takes the error for a lost slot.
        Connection.read_response(connection)
    except MovedError as error:
        raise _Moved((error.host or connection.host, error.port)) from None
    except (AskError, TryAgainError):
        return  # the slot is on its way from this node
    except ClusterDownError as error:
        raise SlotLost(str(error)) from error


def check_prefix() -> None:
    """Check that all keys are in one slot.

    Raises:
        SettingsError: They are not.
    """
    if not keys.HASH_TAG:
        raise SettingsError(
            f"REDIS_URL is a Redis Cluster, where all keys must be in one slot, and RQ_KEY_PREFIX is {keys.PREFIX!r}. "
            "Set RQ_KEY_PREFIX to one with a hash tag, such as {rq}, for every process."
        )


def connect_to_cluster(url: str, **options: Any) -> Redis:
    """A client of the node that serves the slot of the key prefix.

    Args:
        url: See `rqstack.settings.cluster_url`.
        options: As for `redis.Redis.from_url`.

    Raises:
        SettingsError: The key prefix has no hash tag.
    """
    check_prefix()
    nodes = [cast(dict[str, Any], parse_url(node)) for node in node_urls(url)]
    addresses = [(str(node.pop("host", "localhost")), int(node.pop("port", 6379))) for node in nodes]
    from_url = nodes[0]
    is_tls = from_url.pop("connection_class", None) is not None
    pool = ConnectionPool(
        connection_class=SlotSSLConnection if is_tls else SlotConnection,
        slot_master=SlotMaster(addresses),
        **(options | from_url),
    )
    return Redis.from_pool(pool)
