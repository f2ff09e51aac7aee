"""Chooses free TCP ports."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Collection
from pathlib import Path

from rqstack.errors import RqstackError

HOST = "127.0.0.1"


class PortInUse(RqstackError):
    """Another program listens on a configured port. The message has the port and the setting."""


def is_free(port: int) -> bool:
    """Whether a server can listen on a port of 127.0.0.1."""
    with socket.socket() as probe:
        # As servers do; otherwise a port with connections in TIME_WAIT would look used.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def offset(root: Path) -> int:
    """How far from the default ports a home looks for others: 100 to 999, another number for almost each home."""
    return 100 + zlib.crc32(os.fsencode(root)) % 900


def choose(setting: str, port: int, *, is_explicit: bool, root: Path, taken: Collection[int] = ()) -> int:
    """Return the port if it is free, or another free port if the user has not set it.

    Args:
        setting: The environment variable of the port, for the message.
        is_explicit: Whether the user set the port.
        root: The home of the stack. Each home tries other ports, so that two that start at the same time do not meet.
        taken: Ports that are as good as in use.

    Raises:
        PortInUse: The user set the port, and another program listens on it.
    """
    if port not in taken and is_free(port):
        return port
    if is_explicit:
        raise PortInUse(
            f"{setting}={port}: another program listens on port {port}. Stop it, or set {setting} to a free port in "
            ".env or the environment."
        )
    # Below those that the system gives to outgoing connections: such a port is taken again and again for a moment.
    first = port + offset(root)
    near = next((each for each in range(first, first + 50) if each not in taken and is_free(each)), 0)
    if near:
        return near
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
