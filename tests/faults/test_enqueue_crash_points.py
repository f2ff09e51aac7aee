"""Each way to enqueue, with the connection lost at every single command: the call returns, and its job runs once.

A worker takes the job at once, so what a repeated call finds may have ended already.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from redis import Redis
from rq import Repeat
from rq.job import Callback, Dependency
from rq.rate_limit import RateLimit

from rqstack.enqueue import get_queue
from rqstack.registry.registry import registry
from rqstack.settings import Settings, load
from rqstack.transport.client import connect
from support.fault_proxy import FaultProxy, Moment
from support.paths import PROJECTS
from support.settled import FAILED, FINISHED, Ended
from support.workbench import Workbench

pytestmark = pytest.mark.timeout(300)

TASK = "faulty.outcomes.finish"
MOST_COMMANDS = 60


@dataclass
class Call:
    """One call of a producer.

    Args:
        client: Behind the proxy.
        outcomes: The tasks.
        bench: The worker, and Redis itself.
        prefix: What its job ids begin with.
    """

    client: Redis
    outcomes: ModuleType
    bench: Workbench
    prefix: str
    expected: dict[str, Ended] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)

    def id(self, name: str = "job", end: Ended = FINISHED, runs: int = 1) -> str:
        """The id of a job, which must end so."""
        job_id = self.prefix + name
        self.expected[job_id], self.runs[job_id] = end, runs
        return job_id

    def parent(self, name: str = "parent", task: str = "finish", end: Ended = FINISHED, wait: bool = True) -> str:
        """A job that was enqueued before, straight to Redis, and has ended."""
        parent = self.id(name, end)
        self.bench.queue().enqueue(f"faulty.outcomes.{task}", job_id=parent, job_timeout=60, result_ttl=900)
        if wait:
            self.bench.fleet.until(lambda: self.bench.redis.exists(f"rq:results:{parent}"), 15)
        return parent

    def by_task(self, **options: Any) -> None:
        """Enqueue by the task."""
        self.outcomes.finish.enqueue(connection=self.client, timeout=60, result_ttl=900, **options)


def plain(call: Call, **options: Any) -> None:
    call.by_task(job_id=call.id(), **options)


def with_parent(call: Call, wait: bool) -> None:
    call.by_task(job_id=call.id(), depends_on=call.parent(wait=wait))


def with_failed_parent(call: Call) -> None:
    parent = call.parent(task="fail", end=FAILED)
    call.by_task(job_id=call.id(), depends_on=Dependency([parent], allow_failure=True))


def with_two_parents(call: Call) -> None:
    call.by_task(job_id=call.id(), depends_on=[call.parent("one"), call.parent("two", wait=False)])


def with_rate_limit(call: Call) -> None:
    queue = get_queue("default", connection=call.client, settings=load(Settings, secret_key=""))
    limit = RateLimit(f"{call.prefix}limit", 1)
    queue.enqueue(TASK, job_id=call.id(), rate_limit=limit, job_timeout=60, result_ttl=900)


def repeated(call: Call) -> None:
    call.by_task(job_id=call.id(end=Ended("finished", ("success", "success")), runs=2), repeat=Repeat(times=1))


def many(call: Call) -> None:
    queue = get_queue("default", connection=call.client, settings=load(Settings, secret_key=""))
    data = [queue.prepare_data(TASK, job_id=call.id(f"job{n}"), timeout=60, result_ttl=900) for n in range(3)]
    queue.enqueue_many(data)


KINDS: dict[str, Callable[[Call], None]] = {
    "plain": plain,
    "at front": partial(plain, at_front=True),
    "unique": partial(plain, unique=True),
    "retries": partial(plain, retries=2),
    "callback": partial(plain, on_success=Callback("faulty.outcomes.succeeded")),
    "delayed": partial(plain, in_=timedelta(seconds=60)),
    "unique delayed": partial(plain, unique=True, in_=timedelta(seconds=60)),
    "parent ended": partial(with_parent, wait=True),
    "parent waits": partial(with_parent, wait=False),
    "parent failed": with_failed_parent,
    "two parents": with_two_parents,
    "rate limit": with_rate_limit,
    "repeat": repeated,
    "many": many,
}


@pytest.fixture
def outcomes() -> Iterator[ModuleType]:
    """The tasks that the worker runs."""
    path = list(sys.path)
    sys.path.insert(0, str(PROJECTS / "faulty"))
    yield importlib.import_module("faulty.outcomes")
    sys.path[:] = path
    for name in ("faulty.tasks", "faulty.outcomes"):
        registry.forget(name)
        sys.modules.pop(name, None)
    sys.modules.pop("faulty", None)


@pytest.fixture
def proxy(bench: Workbench) -> Iterator[FaultProxy]:
    """What stands between the producer and Redis; the worker has its own."""
    bench.open()
    bench.start_worker()
    proxy = FaultProxy(bench.server.port)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_lost_at_every_command(
    bench: Workbench, proxy: FaultProxy, outcomes: ModuleType, kind: str
) -> None:
    points = 0
    failures: list[str] = []
    for moment in Moment:
        for number in range(1, MOST_COMMANDS):
            bench.open()
            if proxy.target != bench.server.port:
                pytest.fail("\n".join(failures))  # the Redis that the proxy knows was thrown away
            bench.start_worker()
            settings = load(Settings, redis_url=f"redis://127.0.0.1:{proxy.port}/0")
            client = connect(settings)
            call = Call(client, outcomes, bench, bench.prefix())
            proxy.arm(call.prefix, (moment, number))
            error = ""
            try:
                KINDS[kind](call)
            except Exception as raised:
                error = f"the call raised {raised!r}; "
            finally:
                client.close()
            wrong = bench.until_settled([call.expected], bench.move_due)
            if not wrong:
                bench.pass_barrier()
                wrong = bench.until_settled([call.expected], seconds=0)
            begun = {job: bench.journal(call.prefix)["begin", job] for job in call.expected}
            if begun != call.runs:
                wrong.append(f"they ran {begun} times")
            if wrong or error:
                failures.append(f"cut {moment.value} command {number} of {proxy.names}: {error}{'; '.join(wrong)}")
                bench.close()
                break
            bench.forget()
            if not proxy.fired:
                break
            points += 1
    assert failures == [], "\n".join(failures)
    assert points >= 2
