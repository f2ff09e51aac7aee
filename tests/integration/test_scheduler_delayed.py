"""Delayed jobs and retries: moved as RQ's own scheduler moves them, whole or not at all."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue, RateLimit, Retry, SimpleWorker
from rq.job import Job, JobStatus
from rq.registry import ReadyJobRegistry, ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.suspension import suspend

from rqstack.scheduling import delayed as module
from rqstack.scheduling.delayed import ORPHAN_AGE, DelayedJobs
from rqstack.scheduling.scripts import NEXT_DUE, TRIM
from rqstack.transport import keys
from support.redis_server import RedisServer


def fails() -> None:
    raise ValueError("as it should")


def now() -> float:
    return datetime.now(UTC).timestamp()


def queued(connection: Redis, name: str = "default") -> list[str]:
    return [raw.decode() for raw in connection.lrange(f"rq:queue:{name}", 0, -1)]


def snapshot(connection: Redis) -> dict[bytes, object]:
    """All keys and values, without the times at which things were done."""
    found: dict[bytes, object] = {}
    for key in connection.scan_iter("rq:*"):
        kind = connection.type(key)
        if kind == b"hash":
            fields = connection.hgetall(key)
            found[key] = {name: value for name, value in fields.items() if name != b"enqueued_at"}, connection.ttl(key)
        elif kind == b"list":
            found[key] = connection.lrange(key, 0, -1)
        elif kind == b"set":
            found[key] = connection.smembers(key)
        elif kind == b"zset":
            found[key] = connection.zrange(key, 0, -1, withscores=not key.startswith(b"rq:rl:"))
    return found


job_options = st.fixed_dictionaries(
    {},
    optional={
        "at_front": st.booleans(),
        "ttl": st.sampled_from([100, 5_000]),
        "retry": st.sampled_from([Retry(2), Retry(3, [5, 10]), Retry(1, enqueue_at_front=True)]),
        "job_timeout": st.sampled_from([7, -1]),
        "meta": st.just({"a": 1}),
        "description": st.just("d"),
    },
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jobs=st.lists(st.tuples(st.integers(-20, 20), job_options, st.booleans()), max_size=8),
    limit=st.sampled_from([None, None, RateLimit("few", 1), RateLimit("some", 3)]),
)
def test_what_is_moved_is_what_rq_would_have_written(
    connection: Redis, jobs: list[tuple[int, dict[str, object], bool]], limit: RateLimit | None
) -> None:
    connection.flushall()
    queue = Queue("q", connection=connection)
    base = datetime.now(UTC)
    for number, (seconds, options, failed_before) in enumerate(jobs):
        delta = timedelta(seconds=seconds * 10)
        job = queue.enqueue_at(base + delta, fails, job_id=f"j{number}", rate_limit=limit, **options)
        if failed_before:
            connection.hset(job.key, "ended_at", "2026-01-01T00:00:00.000000Z")
    before = {key: (connection.dump(key), connection.pttl(key)) for key in connection.scan_iter("*")}
    rqs = RQScheduler(["q"], connection=connection)
    rqs.acquire_locks()
    rqs.enqueue_scheduled_jobs()
    rqs.release_locks()
    wanted = snapshot(connection)
    connection.flushall()
    for key, (dump, ttl) in before.items():
        connection.restore(key, max(ttl, 0), dump)
    result = DelayedJobs(connection).move_due(now())
    assert snapshot(connection) == wanted
    assert result.moved == sum(seconds <= 0 for seconds, _, _ in jobs)
    for job_id in queued(connection, "q"):
        enqueued = Job.fetch(job_id, connection=connection).enqueued_at
        assert enqueued is not None
        assert abs((enqueued - base).total_seconds()) < 60


def test_a_retry_comes_back_when_it_is_due(connection: Redis) -> None:
    queue = Queue(connection=connection)
    job = queue.enqueue(fails, retry=Retry(2, [5, 50]))
    mover = DelayedJobs(connection)
    for wait in (5, 50):
        SimpleWorker([queue], connection=connection).work(burst=True)
        assert job.get_status() == "scheduled"
        assert mover.move_due(now() + wait - 2).moved == 0
        assert mover.move_due(now() + wait).moved == 1
        assert queued(connection) == [job.id]
        assert job.get_status() == "queued"
    SimpleWorker([queue], connection=connection).work(burst=True)
    assert job.get_status() == "failed"


def test_a_suspended_system_still_moves(connection: Redis) -> None:
    suspend(connection)
    job = Queue(connection=connection).enqueue_in(timedelta(seconds=1), fails)
    assert DelayedJobs(connection).move_due(now() + 2).moved == 1
    assert queued(connection) == [job.id]


def test_an_id_without_a_job_is_dropped_but_not_at_once(connection: Redis) -> None:
    """RQ adds the id before it writes the job: what is not there yet must not be lost."""
    queue = Queue(connection=connection)
    registry = ScheduledJobRegistry(queue=queue)
    start = now()
    late = queue.enqueue_at(datetime.fromtimestamp(start, UTC), fails)
    fields = connection.hgetall(late.key)
    connection.delete(late.key)
    gone = queue.enqueue_at(datetime.fromtimestamp(start, UTC), fails)
    connection.delete(gone.key)
    mover = DelayedJobs(connection)
    result = mover.move_due(start + 1)
    assert (result.moved, result.dropped, result.pending) == (0, 0, 2)
    connection.hset(late.key, mapping=fields)
    assert mover.move_due(start + 2).moved == 1
    result = mover.move_due(start + ORPHAN_AGE + 1)
    assert (result.moved, result.dropped, result.pending) == (0, 1, 0)
    assert registry.get_job_ids(cleanup=False) == []
    assert queued(connection) == [late.id]


def test_ids_without_a_job_do_not_hold_up_the_others(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    queue = Queue(connection=connection)
    start = now()
    connection.zadd("rq:scheduled:default", {f"gone{n}": int(start) - 2 for n in range(7)})
    jobs = [queue.enqueue_at(datetime.fromtimestamp(start, UTC), fails, job_id=f"j{n}") for n in range(8)]
    result = DelayedJobs(connection).move_due(start + 1)
    assert (result.moved, result.pending) == (8, 7)
    assert sorted(queued(connection)) == [job.id for job in jobs]


def test_a_queue_that_rqs_scheduler_holds_is_left_to_it(connection: Redis) -> None:
    for name in ("his", "mine"):
        Queue(name, connection=connection).enqueue_in(timedelta(seconds=0), fails, job_id=name)
    rqs = RQScheduler(["his"], connection=connection)
    assert rqs.acquire_locks() == {"his"}
    later = now() + 2
    assert DelayedJobs(connection).move_due(later).moved == 1
    assert (queued(connection, "his"), queued(connection, "mine")) == ([], ["mine"])
    rqs.enqueue_scheduled_jobs()
    rqs.release_locks()
    assert DelayedJobs(connection).move_due(later).moved == 0
    assert (queued(connection, "his"), queued(connection, "mine")) == (["his"], ["mine"])


def test_rqs_scheduler_and_movers_by_turns_double_nothing(connection: Redis) -> None:
    draw = random.Random(5)
    queue = Queue(connection=connection)
    wanted = []
    mover = DelayedJobs(connection)
    rqs = RQScheduler(["default"], connection=connection)
    for number in range(60):
        wanted.append(queue.enqueue_in(timedelta(seconds=0), fails, job_id=f"j{number}").id)
        step = draw.randrange(4)
        if step == 0:
            rqs.acquire_locks()
        elif step == 1 and rqs.acquired_locks:
            rqs.enqueue_scheduled_jobs()
        elif step == 2:
            rqs.release_locks()
        mover.move_due(now())
    rqs.release_locks()
    mover.move_due(now() + 2)
    assert Counter(queued(connection)) == Counter(wanted)


@pytest.mark.parametrize("ttl", ["", "soon", "2.5", "1e300", "inf", "nan", "-3", "9" * 30])
def test_a_damaged_ttl_loses_no_job(connection: Redis, ttl: str) -> None:
    queue = Queue(connection=connection)
    start = now()
    damaged = queue.enqueue_at(datetime.fromtimestamp(start - 2, UTC), fails, job_id="damaged")
    connection.hset(damaged.key, "ttl", ttl)
    queue.enqueue_at(datetime.fromtimestamp(start - 1, UTC), fails, job_id="good")
    assert DelayedJobs(connection).move_due(start).moved == 2
    assert queued(connection) == ["damaged", "good"]
    assert connection.ttl(damaged.key) == (2 if ttl == "2.5" else -1)


def test_what_is_no_job_holds_up_no_other(connection: Redis) -> None:
    queue = Queue(connection=connection)
    start = now()
    connection.set("rq:job:poisoned", "a string")
    connection.zadd("rq:scheduled:default", {"poisoned": int(start) - 5})
    queue.enqueue_at(datetime.fromtimestamp(start - 1, UTC), fails, job_id="good")
    result = DelayedJobs(connection).move_due(start)
    assert (result.moved, result.pending, result.damaged) == (1, 1, [])
    assert queued(connection) == ["good"]
    result = DelayedJobs(connection).move_due(start + ORPHAN_AGE)
    assert (result.dropped, connection.get("rq:job:poisoned")) == (1, b"a string")


@pytest.mark.parametrize("key", ["rq:queue:a", "rq:scheduled:a"])
def test_a_queue_of_the_wrong_type_is_dropped_and_loses_no_job(connection: Redis, key: str) -> None:
    start = now()
    for name in ("a", "b"):
        Queue(name, connection=connection).enqueue_at(datetime.fromtimestamp(start - 1, UTC), fails, job_id=name)
    connection.delete(key)
    connection.set(key, "a string")
    result = DelayedJobs(connection).move_due(start)
    assert (result.moved, result.damaged) == (2 if key == "rq:queue:a" else 1, [])
    assert queued(connection, "b") == ["b"]
    assert queued(connection, "a") == (["a"] if key == "rq:queue:a" else [])
    assert connection.type(key) in (b"list", b"none")


def test_a_redis_that_takes_no_writes_is_no_damage(own_redis: RedisServer) -> None:
    connection = own_redis.client()
    Queue(connection=connection).enqueue_at(datetime.fromtimestamp(now() - 1, UTC), fails)
    connection.replicaof("127.0.0.1", "1")
    with pytest.raises(ResponseError, match="read only replica"):
        DelayedJobs(connection).move_due(now())


# -- jobs that have gone on by another way


@pytest.mark.parametrize("status", ["queued", "started", "finished", "failed", "stopped", "canceled", "rate_limited"])
def test_an_id_whose_job_is_not_scheduled_is_only_removed(connection: Redis, status: str) -> None:
    """As a retry may leave it: recovered and run again, while its id is still scheduled."""
    job = Queue(connection=connection).enqueue(fails)
    connection.delete("rq:queue:default")
    job.set_status(status)  # type: ignore[arg-type]
    before = connection.hgetall(job.key)
    connection.zadd("rq:scheduled:default", {job.id: now() - 1})
    result = DelayedJobs(connection).move_due(now())
    assert (result.moved, result.dropped, result.pending) == (0, 1, 0)
    assert connection.hgetall(job.key) == before
    assert connection.keys("rq:scheduled:*") == connection.keys("rq:queue:*") == []


def test_a_damaged_limit_holds_up_no_delayed_job(connection: Redis) -> None:
    start = now()
    queue = Queue(connection=connection)
    job = queue.enqueue_at(datetime.fromtimestamp(start - 1, UTC), fails, rate_limit=RateLimit("few", 1))
    connection.set("rq:rl:few:allowed", "a string")
    assert DelayedJobs(connection).move_due(start).moved == 1
    assert connection.zrange("rq:rl:few:allowed", 0, -1) == [job.id.encode()]
    assert queued(connection) == [job.id]


def leave_ready(connection: Redis, **options: object) -> Job:
    """A dependent whose RQ worker died after it had marked it as ready."""
    queue = Queue("q", connection=connection)
    parent = Queue("other", connection=connection).enqueue(fails, job_id="parent")
    job = queue.enqueue(fails, job_id="child", depends_on=parent, **options)
    parent.set_status(JobStatus.FINISHED)
    assert queue.move_dependents_to_ready(parent) == {"q": ["child"]}
    assert (job.get_status(), connection.zrange("rq:ready:q", 0, -1)) == ("ready_to_enqueue", [b"child"])
    return job


@pytest.mark.parametrize("options", [{}, {"at_front": True}, {"ttl": 500}, {"rate_limit": RateLimit("few", 1)}])
def test_a_ready_job_is_enqueued_as_rq_does(connection: Redis, options: dict[str, object]) -> None:
    Queue("q", connection=connection).enqueue(fails, job_id="before")
    leave_ready(connection, **options)
    before = {key: (connection.dump(key), max(connection.pttl(key), 0)) for key in connection.scan_iter("*")}
    ReadyJobRegistry("q", connection=connection).cleanup()
    wanted = snapshot(connection)
    connection.flushall()
    for key, (dump, ttl) in before.items():
        connection.restore(key, ttl, dump)
    result = DelayedJobs(connection).move_ready(now(), ["q"])
    assert (result.moved, snapshot(connection)) == (1, wanted)


def test_a_ready_job_that_rqs_worker_is_about_to_enqueue_is_enqueued_once(
    connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_ready(connection)
    registry = ReadyJobRegistry("q", connection=connection)
    fetch_many = Job.fetch_many
    mover = DelayedJobs(connection)

    def fetched(*arguments: object, **options: object) -> object:
        jobs = fetch_many(*arguments, **options)  # type: ignore[arg-type]
        assert mover.move_ready(now(), ["q"]).moved == 1
        return jobs

    monkeypatch.setattr(Job, "fetch_many", fetched)
    assert registry.enqueue_jobs(["child"]) == []
    assert queued(connection, "q") == ["child"]


def test_a_ready_id_without_a_job_or_of_another_status_is_removed(connection: Redis) -> None:
    leave_ready(connection).set_status(JobStatus.CANCELED)
    connection.zadd("rq:ready:q", {"gone": 1})
    result = DelayedJobs(connection).move_ready(now(), ["q"])
    assert (result.moved, result.dropped) == (0, 2)
    assert connection.keys("rq:ready:*") == connection.keys("rq:queue:q") == []


# -- registries of finished jobs


def test_ids_of_expired_jobs_are_trimmed_some_at_a_time(connection: Redis) -> None:
    connection.sadd("rq:queues", "rq:queue:a", "rq:queue:b", "rq:queue:damaged")
    connection.set("rq:finished:damaged", "a string")
    kept = {b"for-ever": float("inf"), b"negative": -5.0, b"later": now() + 100}
    for name in ("a", "b"):
        connection.zadd(f"rq:finished:{name}", {f"{n}": now() - 5 for n in range(10)} | kept)  # type: ignore[arg-type]
    assert [TRIM(connection, [keys.QUEUES], [8]) for _ in range(4)] == [8, 8, 4, 0]
    for name in ("a", "b"):
        assert dict(connection.zrange(f"rq:finished:{name}", 0, -1, withscores=True)) == pytest.approx(kept)


def test_idle_queues_cost_one_more_command_a_poll(connection: Redis) -> None:
    for n in range(50):
        Queue(f"q{n}", connection=connection).enqueue(fails)
    connection.config_resetstat()
    NEXT_DUE(connection, [keys.CRON_NEXT, keys.CRON_MARK, keys.QUEUES], [])
    counts = connection.info("commandstats")
    assert counts["cmdstat_exists"]["calls"] == 1
