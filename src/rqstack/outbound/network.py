"""Connections for httpcore: to checked addresses only, and with one deadline for all that is done on them."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import httpcore

from rqstack.outbound.addresses import AddressRules

_PIECE = 16_384
"""Bytes that are sent at once, so that the deadline is looked at in between."""


class AddressRefused(Exception):
    """A host has no address that a request may go to.

    Args:
        host: The host.
        address: One of its addresses.
    """

    def __init__(self, host: str, address: str) -> None:
        super().__init__(host, address)
        self.host = host
        self.address = address


class Deadline:
    """A time until which everything must be done.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """The seconds that are left.

        Raises:
            httpcore.TimeoutException: None is.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.TimeoutException
        return left


class GuardedNetwork(httpcore.NetworkBackend):
    """Resolves a host, and connects to those of its addresses that the rules allow.

    The address that was checked is the one that is connected to: a name is resolved once for each connection.

    Args:
        rules: None for no rules, which is for a proxy.
        deadline: Holds for the connection and whatever is sent and received on it.
    """

    def __init__(self, rules: AddressRules | None, deadline: Deadline) -> None:
        self._rules = rules
        self._deadline = deadline
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """As httpcore's. The timeout is the deadline's.

        Raises:
            AddressRefused: The rules allow none of the host's addresses.
            httpcore.ConnectError: None can be reached, or the host has none.
        """
        addresses = resolve(host, port, self._deadline)
        if self._rules is not None:
            addresses = allowed(self._rules, host, addresses)
        error: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                left = self._deadline.left()
                stream = self._network.connect_tcp(address, port, left, local_address, socket_options)
                return _DeadlineStream(stream, self._deadline)
            except httpcore.ConnectError as failed:
                error = failed
        raise error or httpcore.ConnectError(f"{host} has no address")


class _DeadlineStream(httpcore.NetworkStream):
    """A connection that is given up at the deadline, however slowly the other side goes on."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for at in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[at : at + _PIECE], self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def resolve(host: str, port: int, deadline: Deadline) -> list[str]:
    """The addresses of a host.

    Raises:
        httpcore.ConnectError: It has none.
        httpcore.TimeoutException: The resolver does not answer in time.
    """
    answers: SimpleQueue[list[str] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    # The system's resolver knows no timeout.
    Thread(target=ask, name="resolver", daemon=True).start()
    try:
        answer = answers.get(timeout=deadline.left())
    except Empty:
        raise httpcore.TimeoutException from None
    if isinstance(answer, Exception):
        raise httpcore.ConnectError(answer) from answer
    return answer


def allowed(rules: AddressRules, host: str, addresses: list[str]) -> list[str]:
    """The addresses of a host that the rules allow.

    Raises:
        AddressRefused: They allow none.
    """
    found = [address for address in addresses if rules.may_reach(host, address)]
    if addresses and not found:
        raise AddressRefused(host, addresses[0])
    return found
