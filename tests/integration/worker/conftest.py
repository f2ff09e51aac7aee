"""Fixtures of the worker's tests: a home with a Redis, and workers started by the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from support.redis_server import RedisServer
from support.worker_site import Site


@pytest.fixture
def site(tmp_path: Path, redis_server: RedisServer, connection: Redis) -> Iterator[Site]:
    """A home and an empty Redis, for one test."""
    made = Site(tmp_path, redis_server)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared_site() -> Iterator[Site]:
    """A home and a Redis of its own, for all tests of a module."""
    server = RedisServer()
    with tempfile.TemporaryDirectory(prefix="rqstack-site-") as folder:
        server.start()
        made = Site(Path(folder), server)
        try:
            yield made
        finally:
            made.close()
            server.close()


@pytest.fixture
def own_site(tmp_path: Path, own_redis: RedisServer) -> Iterator[Site]:
    """A home and a Redis that the test may stop, for one test."""
    made = Site(tmp_path, own_redis)
    try:
        yield made
    finally:
        made.close()
