"""Whole workers are killed or stand still: others take over, and one that comes back records nothing twice."""

from __future__ import annotations

import os
import signal

import pytest

from support.fleet import Fleet
from support.processes import is_alive

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("number", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_supervisors_killed_at_random(fleet: Fleet, number: int) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(number)], args=(0.012,))
    most = number // 300
    fleet.start(3, RQSTACK_MAX_CRASHES="1000")
    kills = 0
    while fleet.ended() < number:
        # `kill` waits until the tree has ended by itself.
        if kills < most and len(busy := [each for each in fleet.running if fleet.horses(each)]) > 1:
            fleet.kill(fleet.draw.choice(busy))
            fleet.start(RQSTACK_MAX_CRASHES="1000")
            kills += 1
        fleet.pause(0.3, 0.8)
    fleet.finish(ids)
    again = [job for job, times in fleet.begun().items() if times > 1]
    assert kills >= 3
    assert again
    print(f"{kills} kills, {len(again)} of {number} jobs begun more than once")


def test_the_last_supervisor_is_killed_and_a_new_one_takes_over(fleet: Fleet) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(2_000)], args=(0.015,))
    fleet.start(horses=4)
    fleet.until(lambda: fleet.ended() > 100)
    fleet.kill(fleet.running[0])
    in_hand = {line.job for line in fleet.journal() if line.what == "begin"}
    in_hand -= {line.job for line in fleet.journal() if line.what == "end"}
    assert in_hand
    fleet.start(horses=4)
    fleet.finish(ids)
    assert {job for job, times in fleet.begun().items() if times > 1} >= in_hand


def test_a_worker_that_stood_still_is_fenced(fleet: Fleet) -> None:
    """It comes back with running jobs that have been given to another worker, and have been recorded."""
    short = fleet.enqueue([f"job-{n}" for n in range(1_000)], args=(0.002,))
    fleet.start()
    fleet.until(lambda: fleet.ended() > 100)
    # Each horse of the first worker holds one of these when it is stopped.
    long = fleet.enqueue([f"long-{n}" for n in range(2)], args=(1.0,))
    fleet.until(lambda: {line.job for line in fleet.journal()} >= set(long))
    stopped = fleet.tree(fleet.running[0])
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    fleet.start()
    short += fleet.enqueue([f"later-{n}" for n in range(1_000)], args=(0.002,))
    fleet.until(lambda: fleet.ended() == len(short) + len(long))
    assert fleet.said("is dead") == 1
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    fleet.until(lambda: fleet.said("was given to another worker meanwhile") == 2)
    # It is a worker as before.
    other = fleet.running.pop()
    other.terminate()
    assert other.wait(60) == 0
    last = fleet.enqueue([f"last-{n}" for n in range(200)])
    fleet.finish([*short, *long, *last])
    assert {job: times for job, times in fleet.begun().items() if times > 1} == dict.fromkeys(long, 2)


@pytest.mark.parametrize("rounds", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_workers_stand_still_in_turn_under_load(fleet: Fleet, rounds: int) -> None:
    ids = fleet.enqueue([f"job-{n}" for n in range(700 * rounds)], args=(0.01,))
    fleet.start(2, RQSTACK_MAX_CRASHES="1000")
    for turn in range(rounds):
        # Both are on record, and at work.
        ended = fleet.ended()
        fleet.until(lambda: fleet.client.zcard("rqstack:supervisors") == 2 and fleet.ended() > ended + 50)  # noqa: B023
        stopped = fleet.tree(fleet.running[turn % 2])
        dead = fleet.said("is dead")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        fleet.until(lambda: fleet.said("is dead") > dead)  # noqa: B023
        for pid in fleet.draw.sample(stopped, len(stopped)):
            os.kill(pid, signal.SIGCONT)
    fleet.finish(ids)
    again = [job for job, times in fleet.begun().items() if times > 1]
    print(f"{rounds} stops, {len(again)} of {len(ids)} jobs begun more than once")
    # Two were running at each stop, save for those that had just been handed over.
    assert len(again) >= rounds
    assert fleet.said("was given to another worker meanwhile") <= len(again)


def test_no_process_is_left_of_a_killed_worker(fleet: Fleet) -> None:
    fleet.start(3, horses=3)
    fleet.until(lambda: len(fleet.horses()) == 9)
    trees = [pid for supervisor in fleet.running for pid in fleet.tree(supervisor)]
    for supervisor in list(fleet.running):
        fleet.kill(supervisor)
    assert [pid for pid in trees if is_alive(pid)] == []
