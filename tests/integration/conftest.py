"""Fixtures of the integration tests: a real PostgreSQL, started for the tests alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

DEBIAN = Path("/usr/lib/postgresql")


def postgres_binaries() -> Path | None:
    """The folder of this machine's newest PostgreSQL server."""
    if path := shutil.which("postgres"):
        return Path(path).parent
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])) if DEBIAN.is_dir() else []
    return found[-1].parent if found else None


class PostgresServer:
    """A PostgreSQL that a test may kill and start again. It does not run as root, so root starts it as `postgres`."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.folder = tempfile.mkdtemp(prefix="rqstack-postgres-")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.as_user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        self.process: subprocess.Popen[bytes] | None = None
        if self.as_user:
            shutil.chown(self.folder, "postgres", "postgres")
        arguments = ["-D", f"{self.folder}/data", "-U", "rqstack", "--auth=trust", "--no-sync", "-E", "UTF8"]
        self._run("initdb", *arguments, "--no-locale")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False, **self.as_user)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        command = [str(self.binaries / "postgres"), "-D", f"{self.folder}/data", "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", self.folder, "-c", "shared_buffers=16MB", "-c", "max_connections=200"]
        with Path(self.folder, "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True, **self.as_user
            )
        deadline = time.monotonic() + 30
        while True:
            import psycopg

            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(Path(self.folder, "log").read_text()) from None
                time.sleep(0.02)

    def url(self, database: str) -> str:
        return f"postgresql://rqstack@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database of its own, empty."""
        import psycopg

        name = f"test_{uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return self.url(name)

    def kill(self) -> None:
        """kill -9 of the server; its children end by themselves."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # 'fast' shutdown: clients are cut off
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _server() -> PostgresServer:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine: install Debian's package postgresql")
    return PostgresServer(binaries)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for all tests of a test process. Tests that kill it use `own_postgres`."""
    server = _server()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for this test alone, which it may kill and start again."""
    server = _server()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres_server.new_database()


class LossyProxy:
    """Stands between a client and Redis; loses the reply of the commands it is told of, after Redis has done them.

    `lose_after` names them: a request that has these bytes, on a connection that has also sent those of `sent_before`.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lose_after: list[bytes] = []
        self.sent_before = b""
        self.lost = 0
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *args: Any) -> None:
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
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()
        for thread in self.threads:
            thread.join(10)


@pytest.fixture
def proxy(connection: Redis) -> Iterator[LossyProxy]:
    proxy = LossyProxy(connection.connection_pool.connection_kwargs["port"])
    yield proxy
    proxy.close()
