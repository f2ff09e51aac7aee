"""Horses, their forkserver and what jobs have started are killed: every job runs, and is recorded once."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from support.fleet import Fleet

pytestmark = pytest.mark.timeout(400)

# Jobs that random kills hit are innocent, and may be hit more than once.
INNOCENT = {"RQSTACK_MAX_CRASHES": "1000"}


@pytest.mark.parametrize("number", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("whole_group", [False, True], ids=["horse", "group"])
def test_horses_killed_at_random(fleet: Fleet, number: int, whole_group: bool) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(number)], args=(0.004,))
    fleet.start(2, **INNOCENT)
    kills = 0
    while fleet.ended() < number:
        if horses := fleet.horses():
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if whole_group else os.kill)(fleet.draw.choice(horses), signal.SIGKILL)
                kills += 1
        fleet.pause(0.02, 0.1)
    fleet.finish(ids)
    again = [job for job, times in fleet.begun().items() if times > 1]
    assert kills > 10
    assert len(again) > 5
    print(f"{kills} kills, {len(again)} of {number} jobs begun more than once")


def test_templates_killed_at_random(fleet: Fleet) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.004,))
    fleet.start(2, **INNOCENT)
    kills = 0
    while fleet.ended() < len(ids):
        if kills < 10 and (forkservers := fleet.forkservers()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(fleet.draw.choice(forkservers), signal.SIGKILL)
                kills += 1
        fleet.pause(0.1, 0.3)
    fleet.finish(ids)
    again = [job for job, times in fleet.begun().items() if times > 1]
    assert kills > 2
    assert again
    print(f"{kills} kills, {len(again)} jobs begun more than once")


def test_what_a_job_has_started_dies_with_its_horse(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "child"
    fleet.enqueue(["parent"], "with_child", (str(flag),))
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)])
    fleet.start()
    fleet.until(flag.exists)
    child = psutil.Process(int(flag.read_text()))
    horse = next(line.pid for line in fleet.journal() if line.job == "parent")
    os.kill(horse, signal.SIGKILL)
    fleet.until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30)
    fleet.finish(["parent", *ids])
    assert fleet.begun()["parent"] == 2
