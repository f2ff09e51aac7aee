"""The end of a test run: the time that each suite took, then pytest's summary line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]


def test_the_one_that_is_run_below() -> None:
    pass


def test_the_time_of_each_suite_is_shown_before_the_last_line() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", str(HERE), "-k", "run_below"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    *_, title, suite, last = done.stdout.splitlines()
    assert title.strip("= ") == "test time per suite (suites run side by side)"
    assert re.fullmatch(r"unit +\d+\.\d s +1 tests", suite)
    assert re.fullmatch(r"=+ 1 passed in .* =+", last)
