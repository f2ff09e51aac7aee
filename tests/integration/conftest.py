"""Fixtures of the integration tests: a real PostgreSQL, and a proxy that loses Redis's replies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from support.postgres_server import PostgresServer, postgres_binaries
from support.proxy import LossyProxy


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


@pytest.fixture
def proxy(connection: Redis) -> Iterator[LossyProxy]:
    """A proxy before the Redis of `connection`."""
    proxy = LossyProxy(connection.connection_pool.connection_kwargs["port"])
    yield proxy
    proxy.close()
