"""Fixtures for all tests: a Redis server of their own, settings that read nothing from this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rqstack.settings import get_settings
from support.crash_table import crash_point_table
from support.redis_server import RedisServer

# A shell starts what runs in the background with SIGINT ignored, and every process of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under xdist the tests of a file stay in one process, and those of compose too, as they share one engine.

    Each module of RQ's tests is one test here, and goes wherever there is room; so does each kind of job with crash
    points.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(("tests/compose/", "tests/faults/test_container_faults")):
                return "compose"
            alone = nodeid.startswith(("tests/rq_suite/", "tests/faults/test_crash_points"))
            return nodeid if alone else nodeid.partition("::")[0]

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
    if lines := crash_point_table(terminalreporter.stats):
        terminalreporter.section("crash points: commands at which a fault was done, before them and after them")
        terminalreporter.write("\n".join(lines) + "\n")


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
