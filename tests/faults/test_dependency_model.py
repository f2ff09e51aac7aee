"""Random graphs of dependent jobs with random outcomes and crashes: each job ends as a plain model of RQ's rules says.

The model: a job runs when every job that it depends on has finished, or has failed and it allows that. Otherwise it
stays deferred. A job that was stopped or canceled releases nothing.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation
from rq.job import Dependency, Job

from support.fault_proxy import Moment
from support.settled import CANCELED, DEFERRED, FAILED, FINISHED, STOPPED, Ended
from support.workbench import Workbench

TASK = {
    "finish": "finish",
    "fail": "fail",
    "retry": "fail_at_first",
    "stop": "hold",
    "cancel": "finish",
}
"""What a job of each outcome runs."""

QUEUES = ("default", "other")


@dataclass(frozen=True)
class Node:
    """A job of the graph.

    Args:
        parents: Numbers of the jobs that it depends on; all are before it.
        outcome: How it ends if it runs, or `cancel`: it is canceled before it does.
        allow_failure: It runs although a job that it depends on has failed.
        queue: Its queue.
    """

    parents: tuple[int, ...]
    outcome: str
    allow_failure: bool
    queue: str


@dataclass(frozen=True)
class Crash:
    """A fault while the jobs run.

    Args:
        kill: The horse is killed; else all connections are cut.
        moment: Before or after a command.
        number: Which one, counted from the fault before.
    """

    kill: bool
    moment: Moment
    number: int


@dataclass(frozen=True)
class Scenario:
    """A graph and what happens to it.

    Args:
        nodes: The jobs, in the order in which they are enqueued.
        crashes: The faults, one after the other.
        live: The jobs are enqueued while the worker works on them.
    """

    nodes: tuple[Node, ...]
    crashes: tuple[Crash, ...]
    live: bool


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Scenarios of up to twelve jobs and three crashes."""
    live = draw(st.booleans())
    outcomes = sorted(TASK if not live else TASK.keys() - {"cancel"})
    nodes: list[Node] = []
    for number in range(draw(st.integers(2, 12))):
        parents = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        node = Node(
            tuple(sorted(parents)),
            # Most jobs finish, or hardly any graph would get far.
            draw(st.one_of(st.just("finish"), st.just("finish"), st.sampled_from(outcomes))),
            draw(st.booleans()),
            draw(st.sampled_from(QUEUES)),
        )
        nodes.append(node)
    crash = st.builds(Crash, st.booleans(), st.sampled_from(Moment), st.integers(1, 20))
    return Scenario(tuple(nodes), tuple(draw(st.lists(crash, max_size=3))), live)


def model(nodes: tuple[Node, ...]) -> list[Ended]:
    """How each job must end."""
    ends: list[Ended] = []
    for node in nodes:
        released = all(
            ends[parent].status == "finished" or (ends[parent].status == "failed" and node.allow_failure)
            for parent in node.parents
        )
        if node.outcome == "cancel":
            end = CANCELED
        elif not released:
            end = DEFERRED
        else:
            end = {"fail": FAILED, "stop": STOPPED}.get(node.outcome, FINISHED)
        ends.append(Ended(end.status, end.results, node.queue))
    return ends


class Player:
    """Plays a scenario on a worker.

    Args:
        bench: The worker.
        folder: For flags.
    """

    def __init__(self, bench: Workbench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder

    def play(self, scenario: Scenario) -> None:
        """Run the jobs, and compare with the model."""
        try:
            self._play(scenario)
        except BaseException:
            self.bench.close()  # what it left must not hit the next scenario
            raise

    def _play(self, scenario: Scenario) -> None:
        bench = self.bench
        bench.open()
        bench.start_worker()
        self.prefix = bench.prefix()
        self.crashes = list(scenario.crashes)
        self.killed = 0
        self.stopped_at: dict[str, float] = {}
        ids = [f"{self.prefix}{number}" for number in range(len(scenario.nodes))]
        stops = [job for job, node in zip(ids, scenario.nodes, strict=True) if node.outcome == "stop"]
        gate = self.folder / f"{self.prefix}gate"
        expected = dict(zip(ids, model(scenario.nodes), strict=True))
        if scenario.live:
            self._arm_next()
        else:
            # The only horse is busy until all is enqueued.
            expected[f"{self.prefix}gate"] = FINISHED
            self._enqueue("hold", f"{self.prefix}gate", args=(str(gate),))
            bench.fleet.until(lambda: bench.journal(self.prefix)["begin", f"{self.prefix}gate"], 15)
        for job, node in zip(ids, scenario.nodes, strict=True):
            parents = [ids[parent] for parent in node.parents]
            self._enqueue(
                TASK[node.outcome],
                job,
                node.queue,
                args=(str(self.folder / "never"),) if node.outcome == "stop" else (),
                retry=Retry(max=1) if node.outcome == "retry" else None,
                depends_on=Dependency(parents, allow_failure=node.allow_failure) if parents else None,
            )
        for job, node in zip(ids, scenario.nodes, strict=True):
            if node.outcome == "cancel":
                Job.fetch(job, connection=bench.redis).cancel()
        if not scenario.live:
            self._arm_next()
            gate.touch()
        wrong = bench.until_settled([expected], lambda: self._drive(stops), 20)
        bench.proxy.disarm()
        if not wrong:
            bench.start_worker()
            bench.pass_barrier()
            wrong = bench.until_settled([expected], seconds=0)
        notes = bench.journal(self.prefix)
        for job, node in zip(ids, scenario.nodes, strict=True):
            runs = 0 if expected[job].status in ("deferred", "canceled") else 2 if node.outcome == "retry" else 1
            if not runs <= notes["begin", job] <= runs + (self.killed if runs else 0):
                wrong.append(f"{job} ran {notes['begin', job]} times, not {runs}")
        if wrong:
            print("SCENARIO", scenario, self.killed)
            for job in ids:
                print("DUMP", job, bench.redis.hgetall(f"rq:job:{job}"), bench.redis.xrange(f"rq:results:{job}"))
            print("LOG", bench.fleet.tail())
        assert wrong == [], "\n".join(wrong)
        bench.forget()

    def _enqueue(self, task: str, job: str, queue: str = "default", **options: object) -> None:
        made = Queue(queue, connection=self.bench.redis)
        made.enqueue(f"faulty.outcomes.{task}", job_id=job, job_timeout=60, result_ttl=900, **options)

    def _drive(self, stops: list[str]) -> None:
        """Stop the jobs that are to be stopped, and go on to the next crash."""
        if self.crashes and self.bench.proxy.fired:
            self._arm_next()
        for job in stops:
            if self.bench.redis.hget(f"rq:job:{job}", "status") != b"started":
                continue
            # The message may be lost with a connection: then a person repeats it.
            if self.bench.journal(self.prefix)["begin", job] and time.monotonic() > self.stopped_at.get(job, 0) + 1:
                self.stopped_at[job] = time.monotonic()
                with contextlib.suppress(InvalidJobOperation):  # a fault has just ended its run
                    send_stop_job_command(self.bench.redis, job)

    def _arm_next(self) -> None:
        if not self.crashes:
            return
        crash = self.crashes.pop(0)
        self.killed += crash.kill
        fault = self.bench.kill_sender if crash.kill else None
        self.bench.proxy.arm(self.prefix, (crash.moment, crash.number), fault)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("examples", [150, pytest.param(1_000, marks=pytest.mark.slow)])
def test_jobs_of_random_graphs_end_as_the_model_says(bench: Workbench, tmp_path: Path, examples: int) -> None:
    player = Player(bench, tmp_path)

    @settings(
        max_examples=examples,
        derandomize=examples < 1_000,
        database=None,
        deadline=None,
        # A smaller scenario is not looked for: each try of a stuck one takes its full time.
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(scenarios())
    def play(scenario: Scenario) -> None:
        player.play(scenario)

    play()
