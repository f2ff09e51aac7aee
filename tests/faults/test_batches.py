"""Tiny jobs are claimed several at once: what holds for one job at a time holds for them too."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest
from rq.command import send_stop_job_command

from support.fleet import Fleet

pytestmark = pytest.mark.timeout(400)

BEFORE = [f"before-{n}" for n in range(40)]
AFTER = [f"after-{n}" for n in range(40)]


def run_into(fleet: Fleet, flag: Path, **settings: str) -> None:
    """Enqueue tiny jobs with a long one among them, and wait until that runs."""
    fleet.enqueue(BEFORE)
    fleet.enqueue(["held"], "held", (str(flag),))
    fleet.enqueue(AFTER)
    fleet.start(horses=1, **settings)
    fleet.until(flag.exists)


def statuses(fleet: Fleet, ids: list[str]) -> set[bytes]:
    with fleet.client.pipeline() as pipeline:
        for job in ids:
            pipeline.hget(f"rq:job:{job}", "status")
        return set(pipeline.execute())


def release(fleet: Fleet, flag: Path) -> None:
    """Let the second run of the long job end; the file of its first run may still be there."""
    fleet.until(lambda: fleet.begun()["held"] == 2)

    def ended() -> bool:
        flag.unlink(missing_ok=True)
        return statuses(fleet, ["held"]) == {b"finished"}

    fleet.until(ended)


def waiting(fleet: Fleet) -> list[str]:
    return [job.decode() for job in fleet.client.lrange("rq:queue:default", 0, -1)]


def test_several_jobs_go_with_one_call(fleet: Fleet) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)])
    fleet.client.config_resetstat()
    fleet.start(horses=1)
    fleet.finish(ids)
    calls = fleet.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls < 1_500
    assert fleet.begun() == dict.fromkeys(ids, 1)
    print(f"{calls} calls for 2,000 jobs")


def test_one_job_a_call_where_batches_are_off(fleet: Fleet) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(200)])
    fleet.client.config_resetstat()
    fleet.start(horses=1, RQSTACK_BATCH="1")
    fleet.finish(ids)
    assert fleet.client.info("commandstats")["cmdstat_evalsha"]["calls"] >= 200


def test_a_long_job_holds_up_no_other(fleet: Fleet, tmp_path: Path) -> None:
    """What has ended before it is on record while it runs, and what has not begun is back in its queue, in order."""
    flag = tmp_path / "held"
    run_into(fleet, flag)
    fleet.until(lambda: statuses(fleet, BEFORE) == {b"finished"})
    fleet.until(lambda: waiting(fleet) == AFTER)
    assert statuses(fleet, AFTER) == {b"queued"}
    (lease,) = fleet.client.hvals(fleet.client.keys("rqstack:running:*")[0])
    assert lease.startswith(b"default\nheld:")
    flag.unlink()
    fleet.finish(["held", *BEFORE, *AFTER])
    assert fleet.begun() == dict.fromkeys(["held", *BEFORE, *AFTER], 1)


def test_others_run_what_has_not_begun(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "held"
    run_into(fleet, flag)
    fleet.start(horses=1)
    fleet.until(lambda: statuses(fleet, AFTER) == {b"finished"})
    flag.unlink()
    fleet.finish(["held", *BEFORE, *AFTER])
    assert fleet.begun() == dict.fromkeys(["held", *BEFORE, *AFTER], 1)


def test_a_killed_horse_loses_only_what_it_ran(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "held"
    run_into(fleet, flag)
    os.kill(fleet.journal()[-1].pid, signal.SIGKILL)
    release(fleet, flag)
    fleet.finish(["held", *BEFORE, *AFTER])
    assert fleet.begun() == dict.fromkeys([*BEFORE, *AFTER], 1) | {"held": 2}
    assert fleet.crashes == {"held": 1}


def test_a_stop_puts_back_what_has_not_begun(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "held"
    run_into(fleet, flag, RQSTACK_GRACE="2")
    fleet.stop()
    assert waiting(fleet) == ["held", *AFTER]
    assert statuses(fleet, ["held", *AFTER]) == {b"queued"}
    assert statuses(fleet, BEFORE) == {b"finished"}
    assert fleet.crashes == {}
    flag.unlink()
    fleet.start()
    fleet.until(flag.exists)
    flag.unlink()
    fleet.finish(["held", *BEFORE, *AFTER])


def test_a_command_stops_the_one_that_runs(fleet: Fleet, tmp_path: Path) -> None:
    flag = tmp_path / "held"
    run_into(fleet, flag)
    fleet.until(lambda: fleet.client.exists("rq:executions:held"))  # RQ's command asks for it
    send_stop_job_command(fleet.client, "held")
    fleet.until(lambda: statuses(fleet, ["held"]) == {b"stopped"})
    fleet.until(lambda: statuses(fleet, [*BEFORE, *AFTER]) == {b"finished"})
    fleet.stop()
    assert fleet.begun() == dict.fromkeys(["held", *BEFORE, *AFTER], 1)


def test_a_dead_supervisor_s_batch_runs_elsewhere(fleet: Fleet, tmp_path: Path) -> None:
    """It has no time to take anything back: what its horse has not recorded runs again."""
    flag = tmp_path / "held"
    fleet.enqueue(BEFORE)
    fleet.start(horses=1)
    (supervisor,) = fleet.running
    fleet.until(lambda: fleet.ended() == len(BEFORE))
    psutil.Process(supervisor.pid).suspend()
    fleet.enqueue([f"more-{n}" for n in range(15)])
    fleet.enqueue(["held"], "held", (str(flag),))
    fleet.enqueue(AFTER)
    fleet.until(flag.exists)
    fleet.kill(supervisor)
    fleet.start(horses=1)
    release(fleet, flag)
    fleet.finish([*BEFORE, *(f"more-{n}" for n in range(15)), "held", *AFTER])
    begun = fleet.begun()
    assert begun["held"] == 2
    assert {begun[job] for job in (*BEFORE, *AFTER)} == {1}
    # Each was held to have crashed, and so ran alone; the next time it would be the one that is counted.
    assert set(fleet.crashes.values()) == {1}


@pytest.mark.parametrize("number", [10_000, pytest.param(50_000, marks=pytest.mark.slow)])
def test_horses_of_batches_killed_at_random(fleet: Fleet, number: int) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(number)])
    fleet.start(2, RQSTACK_MAX_CRASHES="1000")
    kills = 0
    while fleet.ended() < number:
        if horses := fleet.horses():
            with contextlib.suppress(ProcessLookupError):
                os.kill(fleet.draw.choice(horses), signal.SIGKILL)
                kills += 1
        fleet.pause(0.02, 0.1)
    fleet.finish(ids)
    assert kills > 5
    # A horse that is killed loses what it runs: the jobs around it are recorded or put back, and run once.
    again = [job for job, times in fleet.begun().items() if times > 1]
    assert len(again) <= kills
    print(f"{kills} kills, {len(again)} of {number} jobs begun more than once")


def test_a_horse_that_was_given_up_runs_no_more_of_its_batch(fleet: Fleet, tmp_path: Path) -> None:
    """Its supervisor stood still, so another has put the whole batch back. The horse knows only that it took long."""
    flag = tmp_path / "held"
    fleet.enqueue(BEFORE)
    fleet.start(horses=1)
    (supervisor,) = fleet.running
    fleet.until(lambda: fleet.ended() == len(BEFORE))
    psutil.Process(supervisor.pid).suspend()
    try:
        more = fleet.enqueue([f"more-{n}" for n in range(15)])
        fleet.enqueue(["held"], "held", (str(flag),))
        fleet.enqueue(AFTER)
        fleet.until(flag.exists)
        fleet.start(horses=2)
        fleet.until(lambda: fleet.begun()["held"] == 2 and statuses(fleet, AFTER) == {b"finished"})

        def is_over() -> bool:
            flag.unlink(missing_ok=True)
            dropped = fleet.said("was given to another worker meanwhile")
            return bool(dropped) and statuses(fleet, ["held"]) == {b"finished"}

        fleet.until(is_over)
    finally:
        psutil.Process(supervisor.pid).resume()
    fleet.finish([*BEFORE, *more, "held", *AFTER])
    begun = fleet.begun()
    assert begun["held"] == 2
    assert {job: begun[job] for job in (*BEFORE, *AFTER) if begun[job] != 1} == {}
