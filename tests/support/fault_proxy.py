"""A proxy in front of Redis that injects one fault at one command, and counts commands."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

Fault = Callable[[int], bool]
"""Called with the port of the client that sent the command; returns whether that connection ends there. Nothing passes
the proxy until it returns."""


class Moment(Enum):
    """When a fault comes."""

    REQUEST = "before"
    """The command has left the client, and does not reach Redis."""
    REPLY = "after"
    """Redis has done the command, and its reply does not reach the client."""


def frame_end(data: bytes | bytearray, start: int = 0) -> int | None:
    """Where the RESP value ends that begins at `start`; None if part of it is missing. RESP 2 and 3."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    kind, text = data[start : start + 1], bytes(data[start + 1 : line])
    end = line + 2
    if kind in b"$=!":
        length = int(text)
        end = end if length < 0 else end + length + 2
        return end if end <= len(data) else None
    if kind in b"*~>%":
        for _ in range(max(int(text), 0) * (2 if kind == b"%" else 1)):
            found = frame_end(data, end)
            if found is None:
                return None
            end = found
    return end


def parse_request(frame: bytes) -> list[bytes]:
    """The parts of a command, as clients send it: an array of bulk strings."""
    parts = []
    at = frame.index(b"\r\n") + 2
    while at < len(frame):
        line = frame.index(b"\r\n", at)
        length = int(frame[at + 1 : line])
        parts.append(frame[line + 2 : line + 2 + length])
        at = line + 4 + length
    return parts


Point = tuple[Moment, int | Callable[[], bool]]
"""When a fault comes, and at which counted command: its number, or the first at which something is true."""


@dataclass
class _Sent:
    """A command whose reply has not come yet."""

    signature: bytes
    concerns: bool


@dataclass(eq=False)
class _Connection:
    """A client's connection, and the one to Redis that belongs to it."""

    client: asyncio.StreamWriter
    redis: asyncio.StreamWriter
    port: int
    sent: deque[_Sent] = field(default_factory=deque)
    transaction: list[bytes] | None = None
    transaction_concerns: bool = False
    pubsub: bool = False

    def abort(self) -> None:
        self.client.transport.abort()
        self.redis.transport.abort()


class FaultProxy:
    """Passes everything on between clients and Redis, command by command, until it is armed.

    It counts the commands that concern some jobs: those that have a word (part of the jobs' ids) in their arguments or
    in their reply, and calls of a script that once had such a reply, since one that claims a job does not name it. What
    stands between MULTI and EXEC is one command. Heartbeats and the like are not counted, so a count does not depend on
    the time.

    Everything runs in one thread, so that nothing else passes while a fault is done.

    Args:
        port: Redis's.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.seen: dict[Moment, int] = dict.fromkeys(Moment, 0)
        """Commands that were counted since it was armed, by when."""
        self.names: list[str] = []
        """The counted requests, for messages."""
        self.fired = False
        self._refused = 0
        self._truncated: Moment | None = None
        self._open = asyncio.Event()
        self._word = b""
        self._at: Point | None = None
        self._fault: Fault = self._cut
        self._learned: set[bytes] = set()
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._started.wait(10)

    # -- for tests

    def arm(self, word: str, at: Point | None = None, fault: Fault | None = None) -> None:
        """Count from now on.

        Args:
            word: What the ids of the jobs have in common.
            at: When the fault comes; None for never.
            fault: Default: all connections are cut.
        """

        def arm() -> None:
            self._word, self._at, self._fault = word.encode(), at, fault or self._cut
            self.seen = dict.fromkeys(Moment, 0)
            self.names = []
            self.fired = False

        self._do(arm)

    def disarm(self) -> None:
        """Count no more; what was counted can still be read."""

        def disarm() -> None:
            self._word, self._at = b"", None

        self._do(disarm)

    def go_away(self) -> None:
        """As `be_away`, now."""
        self._do(lambda: self.be_away(0))

    def cut(self) -> None:
        """Close every connection."""
        self._do(lambda: self._cut(0))

    def truncate(self, moment: Moment) -> None:
        """Pass on half of the next request or reply, and close its connection."""

        def truncate() -> None:
            self._truncated = moment

        self._do(truncate)

    def delay(self, seconds: float) -> None:
        """Pass nothing on for some time."""

        def delay() -> None:
            self._open.clear()
            self._loop.call_later(seconds, self._open.set)

        self._do(delay)

    def be_away(self, port: int) -> bool:
        """A fault: close every connection, and those that come next too, as while Redis starts again."""
        self._refused = 8
        return self._cut(port)

    def close(self) -> None:
        """Close every connection, and accept no more."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    # -- in its thread

    def _do(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        self._stop = asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(server.sockets[0].getsockname()[1])
        self._started.set()
        await self._stop.wait()
        server.close()
        self._cut(0)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*others, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._refused:
            self._refused -= 1
            client.transport.abort()
            return
        try:
            from_redis, redis = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            client.transport.abort()
            return
        connection = _Connection(client, redis, int(client.get_extra_info("peername")[1]))
        self._connections.add(connection)
        await asyncio.gather(
            self._pass_on(connection, reader, self._request), self._pass_on(connection, from_redis, self._reply)
        )
        self._connections.discard(connection)

    async def _pass_on(
        self, connection: _Connection, reader: asyncio.StreamReader, handle: Callable[[_Connection, bytes], None]
    ) -> None:
        """Hand on each frame that comes, until an end closes."""
        data = bytearray()
        with contextlib.suppress(OSError):
            while received := await reader.read(1 << 20):
                await self._open.wait()
                data += received
                start = 0
                while start < len(data) and (end := frame_end(data, start)) is not None:
                    handle(connection, bytes(data[start:end]))
                    start = end
                del data[:start]
        connection.abort()

    def _request(self, connection: _Connection, frame: bytes) -> None:
        if connection.redis.is_closing():
            return
        parts = parse_request(frame)
        name = parts[0].upper()
        signature = b" ".join(parts[:2]) if name in (b"EVALSHA", b"EVAL") else name
        concerns = bool(self._word) and (
            any(self._word in part for part in parts[1:]) or (len(parts) > 1 and signature in self._learned)
        )
        if name == b"MULTI":
            connection.transaction, connection.transaction_concerns = [], False
        if connection.transaction is not None:
            # Redis does nothing before EXEC, so nothing is sent before it either: it is one command.
            connection.transaction.append(frame)
            connection.transaction_concerns |= concerns
            if name not in (b"EXEC", b"DISCARD"):
                return
            concerns = connection.transaction_concerns
            count = len(connection.transaction) - 1
            frame = b"".join(connection.transaction)
            connection.transaction = None
        else:
            count = 0
        if concerns:
            self.names.append(parts[0].decode(errors="replace"))
            if self._is_due(Moment.REQUEST) and self._fire(connection):
                return
        if name in (b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE"):
            connection.pubsub = True
        connection.sent.extend(_Sent(b"", False) for _ in range(count))
        connection.sent.append(_Sent(signature, concerns))
        self._write(connection, connection.redis, frame, Moment.REQUEST)

    def _reply(self, connection: _Connection, frame: bytes) -> None:
        if connection.client.is_closing():
            return
        if not connection.pubsub and frame[:1] != b">":
            sent = connection.sent.popleft() if connection.sent else _Sent(b"", False)
            named = bool(self._word) and self._word in frame
            if named and sent.signature.startswith(b"EVAL"):
                self._learned.add(sent.signature)
            if (named or sent.concerns) and self._word and self._is_due(Moment.REPLY) and self._fire(connection):
                return
        self._write(connection, connection.client, frame, Moment.REPLY)

    def _write(self, connection: _Connection, writer: asyncio.StreamWriter, frame: bytes, moment: Moment) -> None:
        if self._truncated is moment:
            self._truncated = None
            writer.write(frame[: len(frame) // 2])
            # What was written goes out before the connection closes; what comes the other way is lost.
            other = connection.client if writer is connection.redis else connection.redis
            other.transport.abort()
            writer.close()
            return
        writer.write(frame)

    def _is_due(self, moment: Moment) -> bool:
        self.seen[moment] += 1
        if self.fired or self._at is None or self._at[0] is not moment:
            return False
        which = self._at[1]
        return which() if callable(which) else which == self.seen[moment]

    def _fire(self, connection: _Connection) -> bool:
        """Do the fault. Returns whether the command, or its reply, goes no further."""
        self.fired = True
        if self._fault(connection.port):
            connection.abort()
            return True
        return False

    def _cut(self, port: int) -> bool:
        for connection in list(self._connections):
            connection.abort()
        return True
