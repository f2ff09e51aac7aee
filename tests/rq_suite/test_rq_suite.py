"""RQ's own tests, from its source distribution, pass with this project's worker and queue in place of RQ's."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import run
import sdist


@pytest.fixture(scope="session")
def rq_tests() -> Path:
    try:
        return sdist.fetch()
    except sdist.Unreachable as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", run.MODULES)
def test_module_of_rq(module: str, rq_tests: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, run.__file__, module], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        output, _ = process.communicate(timeout=590)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0, output[-20_000:]


def test_each_test_left_out_exists(rq_tests: Path) -> None:
    left_out = tomllib.loads((Path(__file__).parent / "left_out.toml").read_text())
    listed = subprocess.run(
        run.command("--collect-only", *(f"tests/{module}.py" for module in run.MODULES)),
        cwd=rq_tests,
        capture_output=True,
        text=True,
        check=True,
    )
    known = {line.removeprefix("tests/").replace(".py::", "::") for line in listed.stdout.splitlines()}
    assert set(left_out) - known == set()
    assert all(entry["reason"].strip() for entry in left_out.values())
