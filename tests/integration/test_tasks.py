"""Tasks through a real Redis: what producers enqueue, what the real worker makes of it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from rq import Callback, Queue, SimpleWorker
from rq.job import Job, _current_job

from rqstack.enqueue import Queue as StackQueue
from rqstack.enqueue import get_queue
from rqstack.errors import BrokerUnavailable, InvalidJob, UnknownTask
from rqstack.limiting import AWAY, acquire, limited
from rqstack.limiting.snooze import Snooze
from rqstack.registry.discovery import autodiscover
from rqstack.registry.rate import Rate
from rqstack.registry.registry import registry
from rqstack.security import for_purpose, get_job_serializer, get_serializer
from rqstack.settings import get_settings
from rqstack.stack.acl import RULES
from rqstack.transport import keys
from support.processes import end, rqstack_command
from support.projects import copy_project
from support.redis_server import RedisServer
from support.waiting import until


@pytest.fixture
def tasks(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tasks of the project `catalogue` in a package of their own, found by this process and by started workers."""
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "the key of the tests")
    monkeypatch.setenv("RQSTACK_HEARTBEAT", "1")
    get_settings.cache_clear()
    package = f"p{uuid4().hex}"
    folder = tmp_path / "tasks" / "catalogue" / package
    copy_project("catalogue", tmp_path / "tasks").rename(folder)
    path = list(sys.path)
    autodiscover().check()
    yield sys.modules[f"{package}.tasks"]
    sys.path[:] = path
    registry.forget(f"{package}.tasks")
    for name in (package, f"{package}.tasks"):
        sys.modules.pop(name, None)


def burst(*queues: str) -> None:
    """The real worker, until the queues are empty."""
    done = subprocess.run(
        rqstack_command("worker", "run", "--burst", *queues), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def running() -> Iterator[Callable[..., None]]:
    """Starts commands that run until the test ends."""
    started: list[subprocess.Popen[bytes]] = []
    yield lambda *words: started.append(subprocess.Popen(rqstack_command(*words), stderr=subprocess.DEVNULL))
    end(*started)


def notes(connection: Redis) -> list[str]:
    return [line.decode() for line in connection.lrange("notes", 0, -1)]


def test_a_job_is_what_its_task_says_and_options_of_the_call_win(tasks: ModuleType, connection: Redis) -> None:
    job = tasks.optioned.delay(1)
    stored = Job.fetch(job.id, connection=connection, serializer=get_job_serializer())
    assert (stored.func_name, stored.args, stored.origin) == (tasks.optioned.name, (1,), "q")
    assert (stored.timeout, stored.result_ttl, stored.failure_ttl) == (7, 8, 9)
    assert (stored.retries_left, stored.retry_intervals) == (2, [5, 6])
    assert (stored.description, stored.meta) == ("d", {"m": 1})
    other = tasks.optioned.enqueue([2], queue="other", timeout=70, retries=0, job_id="named", meta=None)
    stored = Job.fetch("named", connection=connection, serializer=get_job_serializer())
    assert (stored.origin, stored.timeout, stored.retries_left, stored.meta) == ("other", 70, None, {})
    last, front = tasks.add.delay(1), tasks.first.delay()
    assert Queue("default", connection=connection).job_ids == [front.id, last.id]
    assert other.id == "named"


def test_every_kind_of_task_runs_in_the_worker(tasks: ModuleType, connection: Redis) -> None:
    jobs = {
        tasks.add.delay(1, y=5): 6,
        tasks.add.enqueue([1]): 3,
        tasks.waits.delay(1): 2,
        tasks.churn(2): 2,
        tasks.churn_async(1): 1,
        tasks.Model("Ann").greet.delay("hello"): "hello Ann",
        tasks.Model.still.delay(4): -4,
        StackQueue("default", connection=connection, serializer=get_serializer()).enqueue(tasks.churn, 0): 0,
        StackQueue("default", connection=connection, serializer=get_serializer()).enqueue(tasks.add, 1): 3,
    }
    many = tasks.add.enqueue_many([(1,), tasks.add.call(2, y=3), (4, 5)])
    jobs |= dict(zip(many, (3, 5, 9), strict=True))
    assert notes(connection) == []
    burst("default")
    assert {job.id: job.return_value(refresh=True) for job in jobs} == {job.id: value for job, value in jobs.items()}
    assert sorted(notes(connection)) == ["churn 0", "churn 0", "churn 1", "churn 2"]


def test_plain_rq_workers_run_commands_once_too(tasks: ModuleType, connection: Redis) -> None:
    job = tasks.churn(2)
    worker = SimpleWorker(["default"], connection=connection, serializer=get_job_serializer())
    worker.work(burst=True)
    assert notes(connection) == ["churn 2", "churn 1", "churn 0"]
    assert job.return_value(refresh=True) == 2


def test_what_cannot_run_is_refused_by_the_producer(tasks: ModuleType, connection: Redis) -> None:
    for call, said in (
        (lambda: tasks.add.delay(), "missing a required argument: 'x'"),
        (lambda: tasks.add.delay(1, z=1), "unexpected keyword argument 'z'"),
        (lambda: tasks.add.delay(lambda: 0), "cannot be stored"),
        (lambda: tasks.add.enqueue_many([(1,), (lambda: 0,)]), "cannot be stored"),
        (lambda: tasks.add.enqueue_many([1]), "not int"),
        (lambda: tasks.add.enqueue_many([(1,)], job_id="x"), "one job_id"),
        (lambda: tasks.add.enqueue([1], colour="red"), "unknown option colour"),
        (lambda: tasks.add.enqueue([1], retries=-1), "retries=-1"),
        (lambda: tasks.add.schedule(1), "either at= or in_="),
        (lambda: tasks.add.schedule(1, in_=-1), "in_=-1"),
        (lambda: tasks.add.schedule(1, at=datetime(2030, 1, 1)), "time zone"),
        (lambda: tasks.once.delay(lambda: 0), "cannot be stored"),
    ):
        with pytest.raises(InvalidJob) as caught:
            call()
        assert said in str(caught.value)
    assert connection.keys("*") == []


def test_a_function_that_is_no_task_is_refused_by_the_queue(tasks: ModuleType, connection: Redis) -> None:
    queue = get_queue("default", connection=connection)
    for call in (
        lambda: queue.enqueue(len, [1]),
        lambda: queue.enqueue(tasks.note, "x", job_timeout=5),
        lambda: queue.enqueue_in(timedelta(1), tasks.note, "x"),
        lambda: queue.enqueue(tasks.Model("x").greet, "y"),
    ):
        with pytest.raises(UnknownTask, match="is no task, so no worker would run it"):
            call()
    assert connection.keys("*") == []
    jobs = [queue.enqueue(tasks.add, 1), queue.enqueue(tasks.add.func, 2), queue.enqueue(tasks.add.name, 3)]
    assert queue.job_ids == [job.id for job in jobs]


def test_a_redis_that_is_away_is_said_in_a_sentence(tasks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1/0 cannot be reached"):
        tasks.add.delay(1)


def test_scheduled_jobs_wait_in_rqs_registry(tasks: ModuleType, connection: Redis) -> None:
    when = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    at = tasks.add.schedule(1, at=when)
    later = tasks.add.schedule(1, y=3, in_=timedelta(hours=1))
    registry_ = Queue("default", connection=connection).scheduled_job_registry
    assert registry_.get_scheduled_time(at.id) == when
    wait = registry_.get_scheduled_time(later.id) - datetime.now(UTC)
    assert timedelta(minutes=59) < wait <= timedelta(hours=1)
    assert later.get_status() == "scheduled"


def test_a_unique_job_is_one_while_it_waits_and_may_come_again_after(tasks: ModuleType, connection: Redis) -> None:
    first = tasks.once.delay(1)
    assert tasks.once.delay(x=1, y=0).id == first.id
    assert tasks.once.schedule(1, in_=5).id == first.id
    other = tasks.once.delay(1, y=1)
    assert Queue("default", connection=connection).job_ids == [first.id, other.id]
    burst("default")
    assert first.get_status() == "finished"
    again = tasks.once.delay(1)
    assert (again.id, again.get_status()) == (first.id, "queued")
    assert Queue("default", connection=connection).job_ids == [first.id]
    assert first.id not in Queue("default", connection=connection).finished_job_registry.get_job_ids()


def test_only_chosen_exceptions_are_retried(tasks: ModuleType, connection: Redis) -> None:
    wanted, other = tasks.picky.delay("os"), tasks.picky.delay("key")
    burst("default")
    assert sorted(notes(connection)) == ["picky key"] + ["picky os"] * 4
    assert [job.get_status() for job in (wanted, other)] == ["failed", "failed"]
    again = tasks.picky.delay("key")
    SimpleWorker(["default"], connection=connection, serializer=get_job_serializer()).work(burst=True)
    assert notes(connection).count("picky key") == 2
    assert again.get_status() == "failed"


class Evil:
    """Unpickling it creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_forged_jobs_fail_with_the_reason_and_are_counted(tasks: ModuleType, connection: Redis, tmp_path: Path) -> None:
    made = tmp_path / "made"
    good, other = tasks.add.delay(1), tasks.add.delay(2)
    forged = {}
    for number, data in enumerate(
        (
            pickle.dumps((tasks.add.name, None, (Evil(made),), {})),
            pickle.dumps((tasks.add.name, None, (Evil(made),), {})) + good.data[-36:],
            good.data[:5] + b"X" + good.data[6:],
        )
    ):
        job = tasks.add.enqueue([number], job_id=f"forged-{number}")
        connection.hset(job.key, "data", zlib.compress(data))
        forged[job.id] = "no signature" if number == 0 else "another key or other data"
    system = StackQueue("default", connection=connection, serializer=get_job_serializer()).enqueue(
        "os.mkdir", str(made), job_id="system"
    )
    burst("default")
    assert not made.exists()
    assert [job.return_value(refresh=True) for job in (good, other)] == [3, 4]
    for job_id, said in forged.items():
        result = Job(job_id, connection=connection).latest_result()
        assert result is not None
        assert "PayloadRejected" in str(result.exc_string)
        assert said in str(result.exc_string)
    result = system.latest_result()
    assert result is not None
    assert "no task named 'os.mkdir' is registered" in str(result.exc_string)
    assert connection.hgetall(keys.PAYLOADS_REJECTED) == {b"unsigned": b"1", b"bad_signature": b"2"}


def test_what_rqs_own_queue_signs_is_refused_unless_a_setting_accepts_it(
    tasks: ModuleType, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue("default", connection=connection, serializer=get_serializer())
    refused = queue.enqueue(tasks.add.name, 1)
    burst("default")
    result = refused.latest_result()
    assert result is not None
    assert "RQSTACK_ACCEPT_RQ_SIGNATURES" in str(result.exc_string)
    assert ".delay()" in str(result.exc_string)
    monkeypatch.setenv("RQSTACK_ACCEPT_RQ_SIGNATURES", "1")
    accepted = queue.enqueue(tasks.add.name, 2)
    burst("default")
    stored = Job.fetch(accepted.id, connection=connection, serializer=get_job_serializer())
    assert stored.return_value() == 4


def test_a_result_does_not_count_as_arguments(tasks: ModuleType, connection: Redis) -> None:
    """Whatever a task returns, an attacker who can write to Redis may put it into another job."""
    source, target = tasks.add.enqueue([1], job_id="source"), tasks.add.enqueue([2], job_id="target")
    call = for_purpose(get_serializer(), "result").dumps((tasks.churn.name, None, (0,), {}))
    connection.hset(target.key, "data", zlib.compress(call))
    burst("default")
    assert source.return_value(refresh=True) == 3
    result = target.latest_result()
    assert result is not None
    assert "another purpose" in str(result.exc_string)
    assert notes(connection) == []
    assert connection.hgetall(keys.PAYLOADS_REJECTED) == {b"other_purpose": b"1"}


def test_meta_that_a_task_saves_is_read_again(tasks: ModuleType, connection: Redis) -> None:
    job = tasks.add.enqueue([1], meta={"colour": "red"})
    fetched = get_queue("default").fetch_job(job.id)
    assert fetched is not None
    fetched.meta["progress"] = 50
    fetched.save_meta()
    burst("default")
    assert job.get_meta()["progress"] == 50
    raw = connection.hget(job.key, "meta")
    assert isinstance(raw, bytes)
    assert for_purpose(get_serializer(), "meta").loads(raw)["colour"] == "red"


def test_callbacks_are_functions_of_task_packages_only(tasks: ModuleType, connection: Redis, tmp_path: Path) -> None:
    module = tasks.add.__module__
    honest = tasks.add.enqueue([1], on_success=Callback(f"{module}.on_success"))
    borrowed = tasks.add.enqueue([4], on_success=Callback(f"{module}.os.mkdir"))
    method = tasks.add.enqueue([5], on_success=Callback(f"{module}.get_current_job"))
    forged = tasks.add.enqueue([2], on_success=Callback("shutil.copy"), on_failure=Callback("os.mkdir"))
    broken = tasks.add.enqueue([3], on_failure=Callback("os.mkdir"))
    connection.hset(broken.key, "data", b"broken")
    burst("default")
    assert notes(connection) == ["on_success 3"]
    assert honest.get_status() == "finished"
    for job in (forged, broken, borrowed, method):
        result = job.latest_result()
        assert result is not None
        assert "is not a function of a package that declares tasks" in str(result.exc_string)


def starts(connection: Redis) -> dict[int, float]:
    lines = [line.split() for line in notes(connection)]
    return {int(number): int(seconds) + int(micro) / 1e6 for _, number, seconds, micro in lines}


def test_a_rate_holds_over_all_workers_and_nothing_fails(
    tasks: ModuleType, connection: Redis, running: Callable[..., None]
) -> None:
    jobs = tasks.limited.enqueue_many([(number,) for number in range(20)])
    free = tasks.add.delay(1)
    running("scheduler")
    running("worker", "run", "default", "--processes", "2")
    running("worker", "run", "default")
    until(lambda: len(notes(connection)) >= 20)
    until(lambda: all(job.get_status() == "finished" for job in [*jobs, free]))
    assert [job.return_value(refresh=True) for job in jobs] == list(range(20))
    times = starts(connection)
    assert sorted(times) == list(range(20))
    in_order = sorted(times.values())
    # A start is counted a moment before the task notes it: six may look closer than a second, never ten.
    assert all(later - earlier > 0.9 for earlier, later in zip(in_order, in_order[9:], strict=False))
    assert in_order[-1] - in_order[0] > 2
    assert sum(times[n] for n in range(5)) < sum(times[n] for n in range(15, 20))
    refreshed = [Job.fetch(job.id, connection=connection, serializer=get_job_serializer()) for job in jobs]
    assert {job.retries_left for job in refreshed} == {1}
    assert {job.number_of_retries for job in refreshed} == {None}
    assert Queue("default", connection=connection).failed_job_registry.count == 0
    for key in connection.scan_iter("rq:worker:*"):
        assert int(connection.hget(key, "failed_job_count") or 0) == 0


def test_a_lost_redis_is_no_failure_of_a_task_with_a_rate(own_redis: RedisServer) -> None:
    connection = own_redis.client()
    job = Queue(connection=connection).enqueue("a.b")
    calls: list[int] = []
    body = limited(calls.append, "a.b", Rate(1, 3600))
    own_redis.kill()
    token = _current_job.set(job)
    try:
        result = body(1)
        assert isinstance(result, Snooze)
        assert (result.wait, calls) == (AWAY, [])
        own_redis.start()
        assert (body(2), calls) == (None, [2])
    finally:
        _current_job.reset(token)
        connection.close()


def test_a_plain_rq_worker_puts_back_what_is_over_the_rate(tasks: ModuleType, connection: Redis) -> None:
    jobs = tasks.limited.enqueue_many([(number,) for number in range(7)])
    SimpleWorker(["default"], connection=connection, serializer=get_job_serializer()).work(burst=True)
    assert sorted(starts(connection)) == list(range(5))
    assert [job.get_status() for job in jobs] == ["finished"] * 5 + ["scheduled"] * 2
    stored = Job.fetch(jobs[-1].id, connection=connection, serializer=get_job_serializer())
    assert (stored.retries_left, stored.number_of_retries or 0) == (1, 0)


def test_the_limiter_needs_no_more_than_a_workers_rights_and_keeps_the_order(own_redis: RedisServer) -> None:
    admin = own_redis.client()
    admin.execute_command("ACL", "SETUSER", "w", "on", ">secret", "-@all", *RULES["worker"].split())
    client = Redis(port=own_redis.port, username="w", password="secret")
    rate = Rate(2, 3600)
    waits = [acquire(client, "a.b", rate, str(number)) for number in range(6)]
    assert waits[:2] == [0, 0]
    assert 3590 < waits[2] <= 3600.1
    places = [later - earlier for earlier, later in pairwise(waits[2:])]
    assert all(1790 < place < 1810 for place in places)
    # Back too early, in another order: each is told to come after those that were there before it.
    again = {number: acquire(client, "a.b", rate, str(number)) for number in (5, 3, 2, 4)}
    assert sorted(again, key=again.__getitem__) == [2, 3, 4, 5]
    assert acquire(client, "c.d", rate, "1") == 0
    assert all(key.startswith(b"rqstack:ratelimit:") for key in admin.keys("*"))
    client.close()
    admin.close()


def smoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(rqstack_command("smoke", *arguments), capture_output=True, text=True, check=False)


def test_smoke_counts_successes_and_failures(
    tasks: ModuleType, connection: Redis, running: Callable[..., None]
) -> None:
    nobody = smoke("--jobs", "3", "--timeout", "0.3")
    assert nobody.returncode == 2
    assert "3 jobs in" in nobody.stdout
    assert "0 succeeded, 0 failed, 3 not ended." in nobody.stdout
    assert "Does a worker listen" in nobody.stderr
    wrong = smoke("--rate", "5/fortnight")
    assert wrong.returncode == 2
    assert "'5/fortnight'" in wrong.stderr
    running("scheduler")
    running("worker", "run", "short-running", "long-running")
    good = smoke("--jobs", "30", "--rate", "20", "--json")
    assert good.returncode == 0, good.stderr
    assert '"succeeded": 30' in good.stdout
    assert good.stdout.count('"succeeded": 15') == 2
    connection.set("rq:suspended", 1)
    failing = subprocess.Popen(
        rqstack_command("smoke", "--jobs", "4", "--rate", "0"), stdout=subprocess.PIPE, text=True
    )
    until(lambda: connection.llen("rq:queue:long-running") == connection.llen("rq:queue:short-running") == 2)
    connection.hset(f"rq:job:{connection.lindex('rq:queue:long-running', 0).decode()}", "data", b"broken")
    connection.delete("rq:suspended")
    answer, _ = failing.communicate(timeout=60)
    assert failing.returncode == 1, answer
    assert "3 succeeded, 1 failed, 0 not ended." in answer
