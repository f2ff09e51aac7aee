"""docs/cli.md: every block of commands runs, in order, against a real worker; the producer in Python too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from redis import Redis

from rqstack.cli.group import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "cli.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A page of four words, and one that is missing."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>One</h1><p>two three four")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def worker(redis_url: str, connection: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker of the word count."""
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "test")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "wordcount").symlink_to(ROOT / "tasks" / "wordcount")
    command = [sys.executable, "-m", "rqstack.cli.main", "worker", "run"]
    log = tmp_path / "worker.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 60
        while not connection.scard("rq:workers:short-running"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_every_command_block_runs(worker: None, site: str, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rqstack").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rqstack.cli.main "$@"\n')
    (tmp_path / "bin" / "rqstack").chmod(0o755)
    script = "set -e\n" + "\n".join(blocks("sh")).replace("www.example.org", f"{site}/")
    assert script.count("rqstack ") >= 16
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[:2] == ["1 job: 1 finished", "4"]


def test_the_producer_reads_what_its_jobs_returned(worker: None, site: str, tmp_path: Path) -> None:
    (code,) = blocks("python")
    urls = [f"{site}/?{n}" for n in range(20)] + [f"{site}/missing"]
    done = subprocess.run(
        [sys.executable, "-c", code, *urls],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tasks" / "wordcount")},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(set(lines[0].removeprefix("ids: ").split())) == 21
    assert [line for line in lines if line.startswith(site)] == [f"{url} 4" for url in urls[:-1]] + [
        f"{urls[-1]} failed"
    ]


def test_every_command_is_in_the_table() -> None:
    listed = set(
        re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")))
    )
    everyday = set(COMMANDS) - {"dashboard"}
    assert everyday <= listed, f"docs/cli.md does not name {sorted(everyday - listed)}"
