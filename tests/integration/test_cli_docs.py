"""docs/cli.md: every block of commands runs, in order, against a real worker; the producer in Python too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from rqstack.cli.group import COMMANDS
from support.processes import end, rqstack_command, start
from support.waiting import until
from support.web_server import serve

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "cli.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A page of four words, and one that is missing."""
    with serve(tmp_path / "site", "<h1>One</h1><p>two three four") as address:
        yield address


@pytest.fixture
def worker(redis_url: str, connection: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker of the word count."""
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "a key of the tests")
    monkeypatch.setenv("RQSTACK_PRIVATE_HOSTS", "127.0.0.1")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "wordcount").symlink_to(ROOT / "tasks" / "wordcount")
    command = rqstack_command("worker", "run")
    log = tmp_path / "worker.log"
    process = start(command, log, cwd=tmp_path)

    def is_registered() -> bool:
        assert process.poll() is None, log.read_text()
        return bool(connection.scard("rq:workers:short-running"))

    try:
        until(is_registered, 60, log=log.read_text)
        yield
    finally:
        end(process, seconds=40)


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
