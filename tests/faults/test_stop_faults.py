"""Workers are told to stop under load, with a job that takes longer than the grace: it is put back, not failed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.fleet import Fleet

pytestmark = pytest.mark.timeout(400)


def load(fleet: Fleet, flag: Path) -> list[str]:
    """One job that takes five minutes, and many that take milliseconds; the long one runs when this returns."""
    fleet.enqueue(["long"], "long_once", (str(flag), 300.0), timeout=600)
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.003,))
    fleet.until(lambda: flag.exists() and fleet.ended() > 100)
    return ["long", *ids]


def check(fleet: Fleet, ids: list[str]) -> None:
    """The long job was put back at the head of its queue without a mark; another worker runs it and all others."""
    assert fleet.client.lindex("rq:queue:default", 0) == b"long"
    assert fleet.client.hget("rq:job:long", "status") == b"queued"
    assert fleet.crashes == {}
    fleet.start()
    fleet.finish(ids)
    assert {job: times for job, times in fleet.begun().items() if times > 1} == {"long": 2}
    assert fleet.crashes == {}


def test_a_job_longer_than_the_grace_is_put_back(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start(RQSTACK_GRACE="3")
    ids = load(fleet, tmp_path / "flag")
    fleet.stop(60)
    check(fleet, ids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_second_signal_puts_back_at_once(fleet: Fleet, tmp_path: Path, number: signal.Signals) -> None:
    fleet.start(RQSTACK_GRACE="600")
    ids = load(fleet, tmp_path / "flag")
    fleet.running[0].send_signal(number)
    fleet.until(lambda: fleet.said("Stopping: no new jobs"))
    # RQ's rule: within one second it counts as the same signal, sent to the whole group and by a parent.
    fleet.pause(1.2, 1.3)
    fleet.running[0].send_signal(number)
    assert fleet.running.pop().wait(60) == 0
    check(fleet, ids)


def test_workers_stop_and_start_all_the_time(fleet: Fleet) -> None:
    """As in a rolling deployment that never ends: no job is lost, and none is begun twice."""
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.01,))
    fleet.start(2)
    stops = 0
    while fleet.ended() < len(ids):
        if len(fleet.horses()) == 4:
            stopped = fleet.running.pop(0)
            fleet.start()
            stopped.send_signal(fleet.draw.choice([signal.SIGTERM, signal.SIGINT]))
            assert stopped.wait(60) == 0
            stops += 1
        fleet.pause(0.05, 0.3)
    fleet.finish(ids)
    assert stops > 2
    assert {job: times for job, times in fleet.begun().items() if times > 1} == {}
    print(f"{stops} stops")
