"""A proxy before Redis that loses replies."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class LossyProxy:
    """Stands between a client and Redis; loses the reply of the commands it is told of, after Redis has done them.

    `lose_after` names them: a request that has these bytes, on a connection that has also sent those of `sent_before`.
    `when_lost` is called then, before the client can notice: others may work on what the command has done.

    Args:
        port: Redis's.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.lose_after: list[bytes] = []
        self.sent_before = b""
        self.when_lost: Callable[[], object] = lambda: None
        self.lost = 0
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=run, args=args)
        thread.start()
        self.threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            self.sockets += (client, server)
            self._start(self._serve, client, server)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Requests are passed on as they come; a reply is lost by closing the connection when it has arrived."""
        sent = b""
        try:
            while request := client.recv(1 << 20):
                sent += request
                server.sendall(request)
                reply = server.recv(1 << 20)
                if self.lose_after and self.lose_after[0] in request and self.sent_before in sent:
                    del self.lose_after[0]
                    self.lost += 1
                    self.when_lost()
                    return
                client.sendall(reply)
        except OSError:
            pass
        finally:
            client.close()
            server.close()

    def cut(self) -> None:
        """Close every connection."""
        for end in self.sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close every connection, and accept no more."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        for thread in self.threads:
            thread.join(10)
