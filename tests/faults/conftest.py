"""Real workers that are killed, stopped and cut off; afterwards every job is accounted for."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from support.fleet import Fleet
from support.redis_server import RedisServer
from support.workbench import Workbench


@pytest.fixture
def fleet(own_redis: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """Workers on a Redis of their own; none is started yet."""
    fleet = Fleet(own_redis, tmp_path)
    try:
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(scope="session")
def bench() -> Iterator[Workbench]:
    """A worker behind a proxy, for all tests of a test process."""
    bench = Workbench()
    try:
        yield bench
    finally:
        bench.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the workers' log with a failure."""
    report = yield
    fleet = getattr(item, "funcargs", {}).get("fleet")
    if report.failed and isinstance(fleet, Fleet):
        report.sections.append(("the workers' log", fleet.tail()))
    return report
