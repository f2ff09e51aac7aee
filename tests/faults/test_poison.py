"""Jobs that end their process: each fails with a reason that says so, and stops no other job."""

from __future__ import annotations

import subprocess

import pytest
from rq.job import Job

from support.fleet import Fleet
from support.processes import rqstack_command

pytestmark = pytest.mark.timeout(400)

OFTEN = "the job has ended its process 3 times, so it is not run again. See RQSTACK_MAX_CRASHES."

POISON = {
    # name: task, arguments, time-out, how often it begins, what its failure says
    "segfault": ("segfault", (), 60, 3, ["waitpid returned 11 (signal 11)", OFTEN]),
    "out-of-memory": ("killed", (), 60, 3, ["waitpid returned 9 (signal 9)", OFTEN]),
    "exit-0": ("leave", (0,), 60, 3, ["waitpid returned 0;", OFTEN]),
    "exit-1": ("leave", (1,), 60, 3, ["waitpid returned 256;", OFTEN]),
    "exit-73": ("leave", (73,), 60, 3, ["waitpid returned 18688;", OFTEN]),
    "greedy": ("greedy", (4096,), 60, 1, ["MemoryError"]),
    "deaf": ("deaf", (300.0,), 1, 1, ["The job ignored its timeout"]),
}


def failure(fleet: Fleet, job: str) -> str:
    """What is recorded of a failed job, as RQ's own tools read it."""
    result = Job(job, connection=fleet.client).latest_result()
    assert result is not None
    assert result.exc_string is not None
    return result.exc_string


@pytest.mark.parametrize("each", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_poison_among_innocent_jobs(fleet: Fleet, each: int) -> None:
    ids, poison = [], {}
    names = [f"job-{n}" for n in range(1_000 * each)]
    for turn in range(each):
        for kind, (task, args, timeout, times, words) in POISON.items():
            job = f"{kind}-{turn}"
            fleet.enqueue([job], task, args, timeout=timeout)
            poison[job] = (times, words)
        ids += fleet.enqueue(names[turn * 1_000 : (turn + 1) * 1_000], args=(0.001,))
    fleet.start(2)
    fleet.finish(ids, failed=list(poison))
    begun = fleet.begun()
    assert {job: begun[job] for job in poison} == {job: times for job, (times, _) in poison.items()}
    assert {job: begun[job] for job in ids if begun[job] != 1} == {}
    wrong = {}
    for job, (_, words) in poison.items():
        said = failure(fleet, job)
        if not all(word in said for word in words):
            wrong[job] = said
    assert wrong == {}
    assert fleet.crashes == {}


def test_poison_that_is_requeued_gets_its_chances_again(fleet: Fleet) -> None:
    fleet.enqueue(["bad"], "killed")
    fleet.start()
    fleet.until(lambda: fleet.ended() == 1)
    requeue = rqstack_command("requeue", "--yes", "bad")
    subprocess.run(requeue, env=fleet.environment, check=True, timeout=60)
    fleet.until(lambda: fleet.begun()["bad"] == 6)
    fleet.finish([], failed=["bad"])


def test_poison_that_takes_a_whole_worker_along(fleet: Fleet) -> None:
    """As when a container is over its memory limit: nobody of its tree is left to say what happened."""
    ids = fleet.enqueue([f"job-{n}" for n in range(1_000)], args=(0.001,))
    fleet.enqueue(["fatal"], "murder")
    ids += fleet.enqueue([f"after-{n}" for n in range(1_000)], args=(0.001,))
    fleet.start()
    ended = 0
    while not fleet.client.zscore("rq:failed:default", "fatal"):
        for supervisor in [each for each in fleet.running if each.poll() is not None]:
            fleet.running.remove(supervisor)
            fleet.start()
            ended += 1
        fleet.pause(0.05, 0.1)
    # What is left of the dead workers goes at a second look, half a minute after their death was noticed.
    fleet.until(lambda: not fleet.client.exists("rqstack:supervisors:dead"))
    fleet.finish(ids, failed=["fatal"])
    assert ended == fleet.begun()["fatal"] == 3
    assert "with its whole worker" in failure(fleet, "fatal")
    assert OFTEN in failure(fleet, "fatal")
