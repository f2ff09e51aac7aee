"""Each kind of job with each outcome, with a fault at every single command of the worker, one after the other.

A fault cuts all connections, or kills a process, before a command reaches Redis or before its reply reaches the worker.
Afterwards each job has ended once, its dependents have moved, and nothing is left in any registry. Where connections
were cut and no process has ended, nothing ran twice either.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rq import Queue, Repeat, Retry
from rq.command import send_stop_job_command
from rq.group import Group
from rq.job import Callback, Dependency, Job
from rq.rate_limit import RateLimit
from rq.webhook import Webhook

from support.fault_proxy import Moment
from support.settled import CANCELED, DEFERRED, FAILED, FINISHED, GONE, STOPPED, Ended
from support.workbench import Workbench

pytestmark = pytest.mark.timeout(600)

TASKS = "faulty.outcomes."
MOST_FAILURES = 3
"""After so many crash points that went wrong a test has seen enough."""

MOST_COMMANDS = 100
"""No case needs as many: one that does goes round in circles."""

ON_SUCCESS = Callback(f"{TASKS}succeeded")
ON_FAILURE = Callback(f"{TASKS}failed")
ON_STOPPED = Callback(f"{TASKS}stopped")


@dataclass
class Run:
    """One run of a case: what was enqueued, and what must have come of it.

    Args:
        bench: Where it runs.
        prefix: What its job ids begin with.
        flag: A file that the jobs may wait for.
        webhooks: Where a server counts what it is sent.
    """

    bench: Workbench
    prefix: str
    flag: Path
    webhooks: str = ""
    expected: dict[str, Ended] = field(default_factory=dict)
    other: list[dict[str, Ended]] = field(default_factory=list)
    """What is allowed as well."""
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What must be in the journal when no process was killed."""
    crashing: set[str] = field(default_factory=set)
    """Jobs that end their process."""
    acted_at: float = 0.0

    def add(
        self, name: str, task: str, end: Ended = FINISHED, *, runs: int = 1, notes: str = "", **options: Any
    ) -> Job:
        """Enqueue a job, and note how it must end."""
        queue = self.bench.queue(end.queue)
        job_id = self.expect(name, end, runs=runs, notes=notes)
        if task == "die":
            self.crashing.add(job_id)
        options = {"job_timeout": 60, "result_ttl": 900} | options
        return queue.enqueue(TASKS + task, job_id=job_id, **options)

    def expect(self, name: str, end: Ended, *, runs: int = 1, notes: str = "") -> str:
        """Note how a job must end; returns its id."""
        job_id = self.prefix + name
        self.expected[job_id] = end
        if runs:
            self.notes["begin", job_id] = runs
        if notes:
            self.notes[notes, job_id] = 1
        return job_id

    def has_begun(self, name: str) -> bool:
        """Whether a job runs, or did."""
        return self.bench.journal(self.prefix)["begin", self.prefix + name] > 0

    def status(self, name: str) -> bytes | None:
        """A job's status now."""
        found: bytes | None = self.bench.redis.hget(f"rq:job:{self.prefix}{name}", "status")
        return found

    def allow(self, **ends: Ended) -> None:
        """Allow another end of some jobs."""
        self.other.append(self.expected | {self.prefix + name: end for name, end in ends.items()})


Enqueue = Callable[[Run], None]
Drive = Callable[[Run], None]


@dataclass(frozen=True)
class Case:
    """A kind of job with an outcome.

    Args:
        kind: What sets the job apart.
        outcome: How it ends.
        enqueue: Enqueues the jobs.
        drive: What a person or a scheduler does meanwhile.
        killed: Allowed when a process was killed: job names and their other ends.
    """

    kind: str
    outcome: str
    enqueue: Enqueue
    drive: Drive = lambda run: None
    killed: Mapping[str, Ended] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.outcome}".replace(" ", "_")


# -- the kinds of jobs


def plain(run: Run, task: str = "finish", end: Ended = FINISHED, **options: Any) -> None:
    run.add("job", task, end, **options)


def parent_and_child(run: Run, task: str, end: Ended, child: Ended, allow: bool = False, **options: Any) -> None:
    parent = run.add("parent", task, end, **options)
    dependency = Dependency([parent], allow_failure=allow)
    run.add("child", "finish", child, runs=child is FINISHED, depends_on=dependency)


def two_parents(run: Run, second: str, end: Ended, child: Ended, allow: bool = False) -> None:
    parents = [run.add("one", "finish"), run.add("two", second, end)]
    dependency = Dependency(parents, allow_failure=allow)
    run.add("child", "finish", child, runs=child is FINISHED, depends_on=dependency)


def several_children(run: Run) -> None:
    parent = run.add("parent", "finish")
    for number in range(3):
        end = Ended("finished", ("success",), "other" if number else "default")
        run.add(f"child{number}", "finish", end, depends_on=parent)


def retry(run: Run, task: str, end: Ended, runs: int, maximum: int, interval: int = 0, **options: Any) -> None:
    run.add("job", task, end, runs=runs, retry=Retry(max=maximum, interval=interval), **options)


def retried_parent(run: Run) -> None:
    parent = run.add("parent", "fail_at_first", runs=2, retry=Retry(max=1))
    run.add("child", "finish", depends_on=parent)


def repeat(run: Run, interval: int) -> None:
    end = Ended("finished", ("success",) * 3)
    run.add("job", "finish", end, runs=3, repeat=Repeat(times=2, interval=interval))


def group(run: Run, task: str, end: Ended) -> None:
    data = [
        Queue.prepare_data(TASKS + task, job_id=run.expect(f"job{number}", end), timeout=60, result_ttl=900)
        for number in range(2)
    ]
    Group.create(run.bench.redis, name=f"{run.prefix}group").enqueue_many(run.bench.queue(), data)


def rate_limit(run: Run, task: str, end: Ended, runs: int = 1, **options: Any) -> None:
    for number in range(2):
        run.add(f"job{number}", task, end, runs=runs, rate_limit=RateLimit(f"{run.prefix}limit", 1), **options)


def webhook(run: Run, task: str, end: Ended) -> None:
    status = "finished" if end.status == "finished" else "failed"
    hook = Webhook(f"{run.webhooks}/{run.prefix}job", status)  # type: ignore[arg-type]
    run.add("job", task, end, notes="webhook", webhooks=[hook])


def snoozed(run: Run) -> None:
    for number in range(2):
        run.add(f"job{number}", "limited", args=(str(run.flag),))


def held(run: Run, end: Ended, **options: Any) -> None:
    run.add("job", "hold", end, args=(str(run.flag),), **options)


def held_parent(run: Run, end: Ended, **options: Any) -> None:
    parent_and_child(run, "hold", end, DEFERRED, args=(str(run.flag),), **options)


# -- what a person does


def move_due(run: Run) -> None:
    run.bench.move_due()


def lift_limit(run: Run) -> None:
    """Once a job is snoozed, the limit goes and the time comes."""
    if run.flag.exists() or b"scheduled" in (run.status("job0"), run.status("job1")):
        run.flag.touch()
        run.bench.move_due()


def stop(run: Run, name: str = "job") -> None:
    # The message may be lost with a connection: then a person repeats it.
    if run.status(name) == b"started" and run.has_begun(name) and time.monotonic() > run.acted_at + 1:
        run.acted_at = time.monotonic()
        send_stop_job_command(run.bench.redis, run.prefix + name)


def once_begun(act: Callable[[Job], object], run: Run) -> None:
    """Do something with the running job, then let it end."""
    if not run.flag.exists() and run.status("job") == b"started" and run.has_begun("job"):
        act(Job.fetch(f"{run.prefix}job", connection=run.bench.redis))
        run.flag.touch()


def enqueue_again(run: Run) -> None:
    def act(job: Job) -> None:
        run.bench.queue().enqueue_job(job)

    once_begun(act, run)


TWICE = Ended("finished", ("success", "success"))
CANCELED_RAN = Ended("finished", ("success",), also_in="canceled")
RETRIED = ("retried", "success")

CASES = [
    Case("plain", "finished", plain),
    Case("plain", "failed", partial(plain, task="fail", end=FAILED)),
    Case("plain", "stopped", partial(held, end=STOPPED), stop),
    Case("plain", "abandoned", partial(plain, task="die", end=FAILED, runs=3)),
    Case("success callback", "finished", partial(plain, on_success=ON_SUCCESS, notes="succeeded")),
    Case("failure callback", "failed", partial(plain, task="fail", end=FAILED, on_failure=ON_FAILURE, notes="failed")),
    Case("stopped callback", "stopped", partial(held, end=STOPPED, on_stopped=ON_STOPPED, notes="stopped"), stop),
    Case("retry now", "finished", partial(retry, task="fail_at_first", end=FINISHED, runs=2, maximum=1)),
    Case("retry now", "failed", partial(retry, task="fail", end=FAILED, runs=3, maximum=2)),
    Case(
        "retry later", "finished", partial(retry, task="fail_at_first", end=FINISHED, runs=2, maximum=1, interval=60),
        move_due,
    ),
    Case("retry later", "failed", partial(retry, task="fail", end=FAILED, runs=2, maximum=1, interval=60), move_due),
    Case("returned Retry", "finished", partial(plain, task="ask_for_retry", end=Ended("finished", RETRIED), runs=2)),
    Case(
        "returned Retry", "later finished",
        partial(plain, task="ask_for_retry", end=Ended("finished", RETRIED), runs=2, args=(60,)), move_due,
    ),
    Case("repeat", "now", partial(repeat, interval=0)),
    Case("repeat", "later", partial(repeat, interval=60), move_due),
    Case("group", "finished", partial(group, task="finish", end=FINISHED)),
    Case("group", "failed", partial(group, task="fail", end=FAILED)),
    Case("dependent", "finished", partial(parent_and_child, task="finish", end=FINISHED, child=FINISHED)),
    Case("dependent", "parent failed", partial(parent_and_child, task="fail", end=FAILED, child=DEFERRED)),
    Case(
        "dependent", "failure allowed",
        partial(parent_and_child, task="fail", end=FAILED, child=FINISHED, allow=True),
    ),
    Case(
        "dependent", "parent abandoned",
        partial(parent_and_child, task="die", end=FAILED, child=FINISHED, allow=True, runs=3),
    ),
    Case("dependent", "parent stopped", partial(held_parent, end=STOPPED), partial(stop, name="parent")),
    Case("dependent", "parent retried", retried_parent),
    Case("three dependents", "finished", several_children),
    Case("two parents", "finished", partial(two_parents, second="finish", end=FINISHED, child=FINISHED)),
    Case("two parents", "one failed", partial(two_parents, second="fail", end=FAILED, child=DEFERRED)),
    Case("two parents", "failure allowed", partial(two_parents, second="fail", end=FAILED, child=FINISHED, allow=True)),
    Case("rate limit", "finished", partial(rate_limit, task="finish", end=FINISHED)),
    Case("rate limit", "failed", partial(rate_limit, task="fail", end=FAILED)),
    Case("rate limit", "retried", partial(rate_limit, task="fail_at_first", end=FINISHED, runs=2, retry=Retry(max=1))),
    Case("result_ttl 0", "finished", partial(plain, end=GONE, result_ttl=0)),
    Case("failure_ttl", "failed", partial(plain, task="fail", end=FAILED, failure_ttl=600)),
    Case("webhook", "finished", partial(webhook, task="finish", end=FINISHED)),
    Case("webhook", "failed", partial(webhook, task="fail", end=FAILED)),
    Case("snoozed", "finished", snoozed, lift_limit),
    Case(
        "canceled", "while it ran", partial(held, end=CANCELED_RAN), partial(once_begun, lambda job: job.cancel()),
        # What ran is gone, so that there is nothing to record.
        killed={"job": CANCELED},
    ),
    Case("deleted", "while it ran", partial(held, end=GONE), partial(once_begun, lambda job: job.delete())),
    Case(
        "enqueued again", "while it ran", partial(held, end=TWICE, runs=2), enqueue_again,
        # The run that is lost has nothing on record, and the one that was asked for takes its place.
        killed={"job": FINISHED},
    ),
]  # fmt: skip


# -- the faults


class Webhooks:
    """Counts the requests that a local server gets."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        counts = self.counts

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                counts[self.path.lstrip("/")] += 1
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def webhooks() -> Iterator[Webhooks]:
    """A server for webhooks."""
    server = Webhooks()
    yield server
    server.close()


def run_case(
    case: Case, bench: Workbench, hooks: Webhooks, folder: Path, fault: str, at: tuple[Moment, int] | None
) -> tuple[list[str], bool]:
    """Run a case with one fault. Where something goes wrong, the worker is thrown away.

    Returns:
        What went wrong, and whether the fault came at all: the case may have fewer commands.
    """
    bench.open()
    try:
        wrong, fired = _run_case(case, bench, hooks, folder, fault, at)
    except BaseException:
        bench.close()
        raise
    if wrong:
        bench.close()
    else:
        bench.forget()
    return wrong, fired


def _run_case(
    case: Case, bench: Workbench, hooks: Webhooks, folder: Path, fault: str, at: tuple[Moment, int] | None
) -> tuple[list[str], bool]:
    prefix = bench.prefix()
    run = Run(bench, prefix, folder / f"{prefix}flag", hooks.url)
    bench.start_worker()
    actions = {"cut": None, "away": bench.proxy.be_away, "kill": bench.kill_sender, "worker": bench.kill_worker}
    bench.proxy.arm(prefix, at, actions[fault])
    case.enqueue(run)
    killed = at is not None and fault in ("kill", "worker")
    if killed and case.killed:
        run.allow(**case.killed)

    def drive() -> None:
        case.drive(run)
        if fault == "worker" and bench.proxy.fired and not began_again:
            began_again.append(True)
            bench.fleet.running.clear()
            bench.fleet.start(1, horses=1, queues=("default", "other"))

    began_again: list[bool] = []
    wrong = bench.until_settled([run.expected, *run.other], drive)
    if fault == "worker":
        bench.proxy.disarm()  # nobody would start the worker again
    if not wrong:
        # The last commands come after the result, and before the next job.
        bench.start_worker()
        bench.pass_barrier()
        wrong = bench.until_settled([run.expected, *run.other], seconds=0)
    bench.proxy.disarm()
    fired = bench.proxy.fired
    names = bench.proxy.names
    if not wrong:
        notes = bench.journal(prefix)
        for job, count in hooks.counts.items():
            if job.startswith(prefix):
                notes["webhook", job] = count
        wrong = check_notes(run, notes, exactly=not (killed and fired))
    if wrong:
        wrong = [f"{fault} {at[0].value} command {at[1]} of {names}" if at else "no fault", *wrong]
    return wrong, fired


def check_notes(run: Run, notes: Counter[tuple[str, str]], *, exactly: bool) -> list[str]:
    """What users' code ran too often, or not at all.

    A killed process makes a job run once more, if it had begun. A callback or webhook that was due when it was killed
    may then come again or, if the outcome was recorded first, not at all.
    """
    wrong = []
    for key in {*run.notes, *notes}:
        what, job = key
        least = most = run.notes[key]
        if not exactly:
            most += 1
            if what != "begin":
                least = 0
            elif job in run.crashing:
                least -= 1
        if not least <= notes[key] <= most:
            wrong.append(f"{what} of {job} {notes[key]} times, not {least} to {most}")
    return wrong


FAULTS = ["cut", "kill", *(pytest.param(name, marks=pytest.mark.slow) for name in ("away", "worker"))]
"""All connections are cut, the horse is killed, Redis is away for a moment, the whole worker is killed."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_at_every_command(
    case: Case,
    fault: str,
    bench: Workbench,
    webhooks: Webhooks,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    # The first run is of a new worker, maybe, and loads scripts; the second one shows the commands that matter.
    for _ in range(2):
        wrong, _ = run_case(case, bench, webhooks, tmp_path, fault, None)
        assert wrong == [], "\n".join(wrong)
    failures: list[str] = []
    points: Counter[str] = Counter()
    for moment in Moment:
        number = 1
        while len(failures) < MOST_FAILURES:
            wrong, fired = run_case(case, bench, webhooks, tmp_path, fault, (moment, number))
            if wrong:
                failures.append("\n  ".join(wrong))
            if not fired:
                break
            points[moment.value] += 1
            number += 1
            assert number < MOST_COMMANDS, f"more and more commands: {bench.proxy.names[-100:]}"
    record_property("crash_points", [case.kind, case.outcome, fault, points["before"], points["after"], len(failures)])
    assert failures == [], "\n" + "\n".join(failures)
    assert points["before"] > 1
    assert points["after"] > 1
