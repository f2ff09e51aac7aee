"""The fuzz run in small; `make fuzz` is the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz_run.run import run
from fuzz_run.stage import KINDS


@pytest.mark.timeout(300)  # on a machine that is busy with other tests
def test_hostile_records_end_and_stop_nothing(tmp_path: Path) -> None:
    row = run(records=1500, restarts=3, seed=2, folder=tmp_path)
    assert not row.problems, row.problems[0]
    assert row.records >= 1500
    assert row.restarts == dict.fromkeys(KINDS, 3)
    # Two jobs and a message in each check; a delayed one in those that are thorough.
    assert row.canaries == 3 * (1 + 2 * 3) + 1 + 2
