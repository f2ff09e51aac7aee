"""A small Redis client, so that polling costs the same beside every system, whatever it has installed."""

from __future__ import annotations

import socket
from typing import Any


class Redis:
    """One blocking connection to 127.0.0.1; call it with a command's parts.

    Args:
        port: The port.
        database: The database.
    """

    def __init__(self, port: int, database: int = 0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        if database:
            self("SELECT", database)

    def __call__(self, *parts: Any) -> Any:
        encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
        head = b"*%d\r\n" % len(encoded)
        self.socket.sendall(head + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded))
        return self._reply()

    def _reply(self) -> Any:
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self._reply() for _ in range(int(rest))]
        raise RuntimeError(f"Redis says {line!r}")

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = self("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def close(self) -> None:
        self.file.close()
        self.socket.close()
