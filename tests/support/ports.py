"""Free TCP ports."""

from __future__ import annotations

import socket


def free_ports(number: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on, each another one."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]
