"""`@task(concurrency=…)`: at most so many jobs with a key are queued or run, however they were enqueued."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rq
from redis import Redis
from rq import SimpleWorker
from rq.job import Job

from rqstack import task
from rqstack.enqueue import get_queue
from rqstack.errors import InvalidJob
from rqstack.registry.timetable import Cron
from rqstack.scheduling import Scheduler
from rqstack.scheduling.delayed import DelayedJobs
from rqstack.scheduling.entries import RUN_TIME
from rqstack.scheduling.jobs import make_call, make_entry
from rqstack.scheduling.table import CronTable
from rqstack.settings import get_settings

RUNS: list[str] = []


@task(concurrency=2)
def at_most_two(number: int) -> int:
    return note(number)


@task(concurrency=1, concurrency_key=lambda customer, number=0: customer)
def per_customer(customer: str, number: int = 0) -> int:
    return note(number)


@task(concurrency=1, concurrency_key="bank")
def pay(number: int) -> int:
    return note(number)


@task(concurrency=1, concurrency_key="bank", queue="other")
def refund(number: int) -> int:
    return note(number)


@task(concurrency=1, concurrency_key=lambda number: [None, "", "x:allowed", 7][number])
def wrong_key(number: int) -> None: ...


def note(number: int) -> int:
    job = rq.get_current_job()
    assert job is not None
    RUNS.append(job.id)
    if number < 0:
        raise ValueError(number)
    return number


@pytest.fixture(autouse=True)
def fresh(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "the key of the tests")
    get_settings.cache_clear()
    RUNS.clear()


def work(connection: Redis, max_jobs: int | None = None) -> None:
    queues = [get_queue(name, connection=connection) for name in ("default", "other")]
    worker = SimpleWorker(queues, connection=connection, serializer=queues[0].serializer)
    worker.work(burst=True, max_jobs=max_jobs)


def states(jobs: list[Job]) -> list[str]:
    return [job.get_status().value for job in jobs]


def queued(connection: Redis, name: str = "default") -> list[str]:
    return [identifier.decode() for identifier in connection.lrange(f"rq:queue:{name}", 0, -1)]


def allowed(connection: Redis, key: str) -> list[str]:
    return sorted(identifier.decode() for identifier in connection.zrange(f"rq:rl:{key}:allowed", 0, -1))


WAYS: dict[str, Callable[[], list[Job]]] = {
    "delay": lambda: [at_most_two.delay(number) for number in range(4)],
    "enqueue": lambda: [at_most_two.enqueue([number], at_front=True) for number in range(4)],
    "many": lambda: at_most_two.enqueue_many([(number,) for number in range(4)]),
    "many-and-one": lambda: [at_most_two.delay(0), *at_most_two.enqueue_many([(number,) for number in range(3)])],
    "depends-on-gone": lambda: [at_most_two.enqueue([number], depends_on="gone") for number in range(4)],
    "retries": lambda: [at_most_two.enqueue([number], retries=2) for number in range(4)],
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_only_so_many_are_queued_or_run(connection: Redis, way: str) -> None:
    jobs = WAYS[way]()
    assert sorted(states(jobs)) == ["queued", "queued", "rate_limited", "rate_limited"]
    assert states(jobs) == [job.get_status(refresh=False) for job in jobs]
    waiting = {job.id for job in jobs if job.get_status() == "rate_limited"}
    assert (
        sorted(queued(connection))
        == allowed(connection, at_most_two.name)
        == sorted({job.id for job in jobs} - waiting)
    )
    seen = 0
    while len(RUNS) < 4:
        work(connection, max_jobs=1)
        seen = max(seen, len(queued(connection)))
        assert len(queued(connection)) <= 2
    assert sorted(RUNS) == sorted(job.id for job in jobs)
    assert seen == 2
    assert states(jobs) == ["finished"] * 4
    assert allowed(connection, at_most_two.name) == []


def test_the_limit_is_the_tasks_name_or_what_it_says(connection: Redis) -> None:
    first, second, other = per_customer.delay("ann", 1), per_customer.delay("ann", number=2), per_customer.delay("bob")
    assert states([first, second, other]) == ["queued", "rate_limited", "queued"]
    assert allowed(connection, "ann") == [first.id]
    assert allowed(connection, "bob") == [other.id]
    paid, refunded = pay.delay(1), refund.delay(1)  # two tasks and two queues share a key
    assert states([paid, refunded]) == ["queued", "rate_limited"]
    work(connection)
    assert sorted(RUNS) == sorted(job.id for job in (first, second, other, paid, refunded))
    assert states([first, second, other, paid, refunded]) == ["finished"] * 5


def test_a_call_may_have_a_limit_of_its_own(connection: Redis) -> None:
    own = [at_most_two.enqueue([1], concurrency=1, concurrency_key="own") for _ in range(2)]
    free = [at_most_two.enqueue([1], concurrency=None) for _ in range(5)]
    free += [pay.enqueue([1], concurrency=None) for _ in range(2)]
    by_function = at_most_two.enqueue([5], concurrency_key=lambda number: f"n{number}")
    assert states(own) == ["queued", "rate_limited"]
    assert states([*free, by_function]) == ["queued"] * 8
    assert allowed(connection, "n5") == [by_function.id]
    assert not connection.exists(f"rq:rl:{at_most_two.name}")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: at_most_two.enqueue([1], concurrency=0),
            "at_most_two: concurrency=0: should be a whole number, 1 or more.",
        ),
        (lambda: at_most_two.enqueue([1], concurrency_key=""), "at_most_two: concurrency_key='': should be text"),
        (lambda: task_without_limit().enqueue([1], concurrency_key="x"), "concurrency_key='x': needs concurrency="),
        *((lambda n=n: wrong_key.delay(n), "wrong_key: concurrency_key=") for n in range(4)),
        (lambda: wrong_key.enqueue_many([(0,), (1,)]), "wrong_key: concurrency_key=None"),
        (
            lambda: at_most_two.enqueue([1], pipeline=object()),
            "at_most_two: concurrency= and pipeline= cannot both be given.",
        ),
        (
            lambda: at_most_two.enqueue_many([(1,)], pipeline=object()),
            "at_most_two: concurrency= and pipeline= cannot both be given.",
        ),
    ],
)
def test_what_is_no_limit_is_refused(connection: Redis, call: Callable[[], Any], said: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        call()
    assert said in str(caught.value)
    assert connection.keys("rq:*") == []


def task_without_limit() -> Any:
    return plain


@task
def plain(number: int) -> int:
    return note(number)


def test_the_newest_enqueues_number_counts(connection: Redis) -> None:
    """For those that wait too. One that is lower takes no slot away, but gives none until enough have ended."""
    jobs = [plain.enqueue([1], concurrency=1, concurrency_key="k") for _ in range(3)]
    assert states(jobs) == ["queued", "rate_limited", "rate_limited"]
    jobs.append(plain.enqueue([1], concurrency=3, concurrency_key="k"))
    assert sorted(states(jobs)) == ["queued", "queued", "queued", "rate_limited"]
    jobs.append(plain.enqueue([1], concurrency=1, concurrency_key="k"))
    assert len(queued(connection)) == 3
    for left in (2, 1, 1, 1, 0):
        work(connection, max_jobs=1)
        assert len(queued(connection)) == left
    assert sorted(RUNS) == sorted(job.id for job in jobs)


def test_a_job_that_fails_and_is_retried_keeps_the_limit(connection: Redis) -> None:
    jobs = [pay.enqueue([-1], retries=2), pay.delay(1), pay.delay(2)]
    work(connection)
    assert RUNS.count(jobs[0].id) == 3
    assert sorted(RUNS) == sorted([jobs[0].id] * 3 + [job.id for job in jobs[1:]])
    assert states(jobs) == ["failed", "finished", "finished"]
    assert allowed(connection, "bank") == []


def test_a_dependent_waits_for_its_slot_when_it_is_released(connection: Redis) -> None:
    before = plain.delay(0)
    [holder] = pay.enqueue_many([(1,)])
    dependents = pay.enqueue_many([(2,), (3,)], depends_on=before)
    assert states([before, holder, *dependents]) == ["queued", "queued", "deferred", "deferred"]
    work(connection, max_jobs=1)
    assert states([before, holder, *dependents]) == ["finished", "queued", "rate_limited", "rate_limited"]
    work(connection)
    assert sorted(RUNS) == sorted(job.id for job in (before, holder, *dependents))


def test_delayed_jobs_take_a_slot_when_they_are_due(connection: Redis) -> None:
    jobs = [pay.schedule(1, in_=0.001), pay.enqueue([2], at=datetime.now(UTC) - timedelta(seconds=5)), pay.delay(3)]
    assert states(jobs) == ["scheduled", "scheduled", "queued"]
    assert DelayedJobs(connection).move_due(datetime.now(UTC).timestamp() + 2).moved == 2
    assert states(jobs) == ["rate_limited", "rate_limited", "queued"]
    work(connection)
    assert sorted(RUNS) == sorted(job.id for job in jobs)


def test_firings_of_a_cron_entry_wait_for_a_slot(connection: Redis) -> None:
    table = CronTable(connection)
    call = make_call(plain, (1,), {}, {"concurrency": 1, "concurrency_key": "nightly"})
    entry = make_entry(call, Cron("* * * * *"), source=RUN_TIME, connection=connection)
    start = int(datetime(2031, 1, 1, tzinfo=UTC).timestamp())
    table.put(entry, now=start)
    first = table.fire_due(start + 61)
    second = table.fire_due(start + 121)
    assert table.fire_due(start + 121) == []
    serializer = get_queue("default").serializer
    jobs = [Job.fetch(name, connection=connection, serializer=serializer) for name in (*first, *second)]
    assert states(jobs) == ["queued", "rate_limited"]
    assert queued(connection) == first
    work(connection)
    assert [*first, *second] == RUNS
    assert states(jobs) == ["finished", "finished"]


def test_a_scheduler_object_keeps_the_limit(connection: Redis) -> None:
    with Scheduler(connection=connection) as scheduler:
        jobs = [scheduler.enqueue("default", pay, (number,)) for number in range(2)]
    assert states(jobs) == ["queued", "rate_limited"]


def test_unique_and_concurrency_go_together(connection: Redis) -> None:
    jobs = [pay.enqueue([number], unique=True) for number in (1, 2, 1, 2)]
    assert [job.id for job in jobs[:2]] == [job.id for job in jobs[2:]]
    assert states(jobs) == ["queued", "rate_limited"] * 2
    work(connection)
    assert [job.id for job in jobs[:2]] == RUNS
    again = pay.enqueue([1], unique=True)
    assert (again.id, again.get_status()) == (jobs[0].id, "queued")
    assert allowed(connection, "bank") == [again.id]


def test_rqs_own_producer_and_worker_share_the_limit(connection: Redis) -> None:
    queue = rq.Queue("default", connection=connection, serializer=get_queue("default").serializer)
    theirs = queue.enqueue(pay.name, 1, rate_limit=rq.RateLimit("bank", 1))
    ours = pay.delay(2)
    assert states([theirs, ours]) == ["queued", "rate_limited"]
    work(connection)
    assert [theirs.id, ours.id] == RUNS


def test_a_canceled_job_that_runs_gives_its_slot_to_the_next_when_it_is_replaced(connection: Redis) -> None:
    first, waits = pay.enqueue([1], unique=True), pay.delay(2)
    connection.hset(first.key, "status", "canceled")
    connection.lrem("rq:queue:default", 0, first.id)
    again = pay.enqueue([1], unique=True, concurrency_key="elsewhere")
    assert states([again, waits]) == ["queued", "queued"]
    assert sorted(queued(connection)) == sorted([again.id, waits.id])
    assert allowed(connection, "bank") == [waits.id]
    assert allowed(connection, "elsewhere") == [again.id]
