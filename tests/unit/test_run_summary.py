"""The end of a test run: the time that each suite took, then pytest's summary line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_time_of_each_suite_is_shown_before_the_last_line() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "tests/unit/test_throttle.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    *_, title, suite, last = done.stdout.splitlines()
    assert title.strip("= ") == "test time per suite (suites run side by side)"
    count = re.fullmatch(r"unit +\d+\.\d s +(\d+) tests", suite)
    assert count
    assert re.fullmatch(rf"=+ {count[1]} passed in .* =+", last)
