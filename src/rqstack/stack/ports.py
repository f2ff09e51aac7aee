"""TCP ports of this machine: which are free, and which to take."""

from __future__ import annotations

import socket

from rqstack.errors import RqstackError

HOST = "127.0.0.1"


class PortInUse(RqstackError):
    """A port that was asked for by name has another owner; the message names it and the setting."""


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As servers do, or a port whose last connections are still winding down would look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def choose(setting: str, port: int, *, given: bool) -> int:
    """The port to listen on.

    Args:
        setting: The environment variable that sets the port, for the message.
        port: The port that is wanted.
        given: Whether a person set it; a default may give way to a free port.

    Raises:
        PortInUse: The port was given, and something else listens on it.
    """
    if is_free(port):
        return port
    if given:
        raise PortInUse(
            f"{setting}={port}: another program listens on port {port}. End it, or set {setting} to a free port in "
            ".env or the environment."
        )
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
