"""`make test RQ=…`: a copy of the checkout with another version of RQ is tested; a version that is none is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rqstack.transport.rq_version import SUPPORTED

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make_test(version: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-C", str(ROOT), "test", f"RQ={version}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("version", ["next", "3", "3.0.0.evil", "../x", "3.0.0b1"])
def test_what_is_no_version_is_refused(version: str) -> None:
    done = make_test(version)
    assert done.returncode == 2
    assert f"RQ={version} is not a version. Give one like 3.1.0: make test RQ=3.1.0" in done.stderr


def test_a_version_that_the_index_does_not_have_is_said() -> None:
    done = make_test("3.0.999")
    assert done.returncode == 2
    line = next(line for line in done.stderr.splitlines() if line.startswith("RQ "))
    assert line.startswith("RQ 3.0.999 cannot be fetched from the package index: ERROR: ")
    assert not (ROOT / "var" / "rq-3.0.999").exists()


def test_nothing_in_the_package_widens_the_check() -> None:
    """The script changes these lines of its copy: they are there, and the check reads nothing else."""
    check = (ROOT / "src" / "rqstack" / "transport" / "rq_version.py").read_text()
    assert check.count("\nSUPPORTED = ") == 1
    assert "environ" not in check
    major, minor = map(int, SUPPORTED.split("."))
    assert (ROOT / "pyproject.toml").read_text().count(f'"rq>={SUPPORTED},<{major}.{minor + 1}"') == 2
