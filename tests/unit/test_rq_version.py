"""Another series of RQ is refused, with one line, where producers and workers start."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rqstack.transport.rq_version import SUPPORTED

ROOT = Path(__file__).resolve().parents[2]
REFUSED = f"is installed, and rqstack works with RQ {SUPPORTED} only. Install that: pip install 'rq=={SUPPORTED}.*'"
OTHERS = [version for version in ("2.11.0", "3.99.0", "4.0") if not version.startswith(f"{SUPPORTED}.")]


def run(version: str, code: str) -> subprocess.CompletedProcess[str]:
    pretend = f"import sys, rq.version; rq.version.VERSION = {version!r};"
    return subprocess.run([sys.executable, "-c", pretend + code], capture_output=True, text=True, timeout=60)


def test_the_supported_series_is_that_of_the_dependencies() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    major, minor = map(int, SUPPORTED.split("."))
    assert f"rq>={SUPPORTED},<{major}.{minor + 1}" in dependencies


@pytest.mark.parametrize("version", OTHERS)
@pytest.mark.parametrize("code", ["import rqstack.enqueue.queue", "from rqstack.worker import Worker"])
def test_another_series_is_refused(version: str, code: str) -> None:
    done = run(version, code)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith(f"RQ {version} {REFUSED}")


@pytest.mark.parametrize("version", [f"{SUPPORTED}.0", f"{SUPPORTED}.7"])
def test_any_release_of_the_series_is_taken(version: str) -> None:
    assert run(version, "import rqstack.enqueue.queue, rqstack.worker.worker").returncode == 0


@pytest.mark.parametrize("command", [["worker", "run", "--burst"], ["trigger", "rqstack.smoke.check"]])
def test_the_commands_print_one_line(command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RQSTACK_HOME", str(tmp_path))
    main = f"sys.argv[1:] = {command!r}; from rqstack.cli.main import main; main()"
    done = run("2.11.0", main)
    assert (done.returncode, done.stderr) == (1, f"Error: RQ 2.11.0 {REFUSED}\n")
