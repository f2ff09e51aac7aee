"""Seconds from a kill until the job starts again, with default settings: printed, not asserted. Run it with -s."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from support.fleet import Fleet
from support.journal import Line

pytestmark = pytest.mark.timeout(400)

# Settings as they are without any; only the key and the tasks are the tests' own.
DEFAULTS = {"RQSTACK_DEAD_AFTER": "", "RQSTACK_HEARTBEAT": "", "RQSTACK_GRACE": "", "RQSTACK_MAX_CRASHES": "1000"}


def starts(fleet: Fleet, job: str) -> list[Line]:
    return [line for line in fleet.journal() if line.job == job and line.what == "begin"]


def measure(fleet: Fleet, folder: Path, rounds: int, kill: Callable[[int], None]) -> list[float]:
    """Kill by `kill`, which gets the horse's process, in the middle of a long job; seconds until it starts again."""
    taken = []
    for turn in range(rounds):
        job = f"long-{turn}"
        fleet.enqueue([job], "long_once", (str(folder / job), 300.0), timeout=600)
        first = fleet.until(lambda: starts(fleet, job))  # noqa: B023
        fleet.pause(0.1, 1.0)
        killed = time.time()
        kill(first[0].pid)
        fleet.until(lambda: len(starts(fleet, job)) == 2)  # noqa: B023
        taken.append(starts(fleet, job)[1].time - killed)
        fleet.until(lambda: fleet.ended() == turn + 1)  # noqa: B023
    return taken


def test_of_a_horse(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start(1, **DEFAULTS)
    taken = measure(fleet, tmp_path, 10, lambda pid: os.kill(pid, signal.SIGKILL))
    print(f"\nhorse killed: its job starts again after {median(taken):.3f} s (at most {max(taken):.3f} s)")
    fleet.finish([f"long-{turn}" for turn in range(10)])


@pytest.mark.slow
def test_of_a_worker_beside_another(fleet: Fleet, tmp_path: Path) -> None:
    def kill(horse: int) -> None:
        supervisor = next(each for each in fleet.running if horse in fleet.tree(each))
        fleet.start(1, **DEFAULTS)
        fleet.kill(supervisor)

    fleet.start(2, **DEFAULTS)
    fleet.pause(13, 14)
    taken = measure(fleet, tmp_path, 5, kill)
    print(f"\nworker killed, another beside it: after {median(taken):.1f} s (at most {max(taken):.1f} s)")


@pytest.mark.slow
def test_of_the_only_worker(fleet: Fleet, tmp_path: Path) -> None:
    """A new one is started at once, as `restart: unless-stopped` and systemd do."""

    def kill(horse: int) -> None:
        fleet.kill(fleet.running[0])
        fleet.start(1, **DEFAULTS)

    fleet.start(1, **DEFAULTS)
    taken = measure(fleet, tmp_path, 5, kill)
    print(f"\nthe only worker killed and started again: after {median(taken):.1f} s (at most {max(taken):.1f} s)")
