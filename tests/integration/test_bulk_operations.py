"""Purge, requeue and cancel beside workers, schedulers and lost replies."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from rq import Queue, RateLimit
from rq.group import Group
from rq.job import Job
from rq.registry import FailedJobRegistry

from rqstack import bulk
from rqstack.bulk import Requeued, cancel, empty, purge, requeue
from rqstack.scheduling.delayed import DelayedJobs
from support.proxy import LossyProxy
from support.quick_worker import QuickWorker
from support.redis_server import RedisServer
from support.worker_site import Site

ENDED = "2026-01-01T00:00:00.000000Z"


@pytest.fixture
def few_to_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 5)


@pytest.fixture
def lossy(proxy: LossyProxy, few_to_a_call: None, monkeypatch: pytest.MonkeyPatch) -> Redis:
    """A client whose replies the proxy loses; the proxy takes one command at a time."""
    monkeypatch.setattr(bulk, "IN_FLIGHT", 1)
    return Redis(port=proxy.port, retry=Retry(NoBackoff(), 3))


def queued(connection: Redis, name: str = "default") -> list[str]:
    return [raw.decode() for raw in connection.lrange(f"rq:queue:{name}", 0, -1)]


def status(connection: Redis, job_id: str) -> str:
    return (connection.hget(f"rq:job:{job_id}", "status") or b"gone").decode()


def enqueue(connection: Redis, *names: str, **options: Any) -> list[Job]:
    return [Queue(connection=connection).enqueue("operator.truediv", 1, 0, job_id=each, **options) for each in names]


def fail(connection: Redis, *names: str, **options: Any) -> list[Job]:
    """Jobs that a worker of RQ ran and that failed."""
    jobs = enqueue(connection, *names, **options)
    work(connection)
    return jobs


def work(connection: Redis) -> None:
    QuickWorker([Queue(connection=connection)], connection=connection).work(burst=True, logging_level="CRITICAL")


def numbered(word: str, count: int) -> list[str]:
    return [f"{word}-{n:03}" for n in range(count)]


# -- beside others


def test_jobs_enqueued_while_a_queue_is_emptied_stay(connection: Redis, few_to_a_call: None) -> None:
    enqueue(connection, *numbered("old", 23))
    late: list[str] = []

    def go_on(_: int) -> None:
        """Others claim the first job, and enqueue three."""
        claimed = connection.lpop("rq:queue:default")
        if claimed is not None:
            connection.hset(f"rq:job:{claimed.decode()}", "status", "started")
        late.extend(job.id for job in enqueue(connection, *(f"late-{len(late) + n}" for n in range(3))))

    empty(connection, "default", go_on)
    assert len(late) > 6
    assert [each for each in queued(connection) if each.startswith("old")] == []
    claimed = [each for each in late if status(connection, each) == "started"]
    assert queued(connection) == [each for each in late if each not in claimed]
    assert all(status(connection, each) in ("queued", "started") for each in late)


def test_a_queue_that_workers_were_quicker_to_empty_keeps_what_came_later(
    connection: Redis, few_to_a_call: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "IN_FLIGHT", 1)
    enqueue(connection, *numbered("old", 20))
    late = numbered("late", 20)

    def claim_all(_: int) -> None:
        if status(connection, late[0]) == "gone":
            while (claimed := connection.lpop("rq:queue:default")) is not None:
                connection.hset(f"rq:job:{claimed.decode()}", "status", "started")
            enqueue(connection, *late)

    assert empty(connection, "default", claim_all) == 5
    assert queued(connection) == late


@pytest.mark.parametrize("places", [(0, -1), (-1, -1), (0, 0)])
def test_an_id_that_is_queued_twice_ends_nothing_early(
    connection: Redis, few_to_a_call: None, places: tuple[int, int]
) -> None:
    jobs = enqueue(connection, *numbered("job", 12))
    doubled = jobs[places[0]].id
    (connection.lpush if places[1] == 0 else connection.rpush)("rq:queue:default", doubled)
    assert empty(connection, "default") == 13
    assert [key for key in connection.keys("*") if b"job-" in key or b"rqstack" in key] == []


def test_a_job_that_is_requeued_while_the_failed_are_purged_stays(connection: Redis, few_to_a_call: None) -> None:
    jobs = [job.id for job in fail(connection, *numbered("job", 30))]
    kept = jobs[-4:]

    def put_back(_: int) -> None:
        requeue(connection, "default", kept[:2])
        FailedJobRegistry(connection=connection).requeue(kept[2]) if kept[2] not in queued(connection) else None

    # Requeued by somebody who did not take it out of the registry: by its status it is in use.
    connection.hset(f"rq:job:{kept[3]}", "status", "queued")
    connection.rpush("rq:queue:default", kept[3])
    assert purge(connection, "default", "failed", put_back) == 26
    assert sorted(queued(connection)) == kept
    assert [status(connection, each) for each in jobs] == ["gone"] * 26 + ["queued"] * 4
    assert connection.zcard("rq:failed:default") == 0


def test_a_scheduler_that_moves_while_the_delayed_are_purged(connection: Redis, few_to_a_call: None) -> None:
    queue = Queue(connection=connection)
    start = time.time()
    jobs = numbered("job", 40)
    for number, each in enumerate(jobs):
        due = datetime.fromtimestamp(start + (1000 - number if number % 2 else number - 50), UTC)
        queue.enqueue_at(due, "time.time", job_id=each)
    delayed, moved = DelayedJobs(connection), []

    def move(_: int) -> None:
        moved.append(delayed.move_due(start).moved)

    deleted = purge(connection, "default", "scheduled", move)
    assert deleted + sum(moved) == 40
    assert {each for each in jobs if status(connection, each) == "queued"} == set(queued(connection))
    assert len(queued(connection)) == sum(moved) > 0
    assert connection.zcard("rq:scheduled:default") == 0


def test_a_worker_runs_jobs_while_its_queue_is_purged(
    tmp_path: Path, redis_server: RedisServer, connection: Redis
) -> None:
    site = Site(tmp_path / "site", redis_server)
    site.add_project()
    jobs = numbered("job", 3000)
    try:
        site.worker("default", "--processes", "2", RQSTACK_HEARTBEAT="1")
        site.until_idle(2)
        for each in jobs:
            site.queue().enqueue("shop.tasks.give", job_id=each)
        deleted = purge(connection, "default", "queued")
        site.queue().enqueue("shop.tasks.give", job_id="last")
        site.until_ended("last")
        ends = [status(connection, each) for each in jobs]
        assert set(ends) <= {"finished", "gone"}
        assert ends.count("gone") == deleted
        done = sum(int(count or 0) for count in (connection.hget(key, "successful_job_count") for key in workers(site)))
        assert done == 3001 - deleted
        assert connection.zcard("rq:wip:default") == connection.llen("rq:queue:default") == 0
    finally:
        for process in site.started:
            site.stop(process)


def workers(site: Site) -> list[bytes]:
    return list(site.redis.smembers("rq:workers"))


# -- replies that are lost


@pytest.mark.parametrize("losses", [[1], [2], [1, 1, 1], [3, 1]])
def test_a_repeated_purge_takes_no_more_than_there_were(
    connection: Redis, lossy: Redis, proxy: LossyProxy, losses: list[int]
) -> None:
    enqueue(connection, *numbered("old", 17))
    late: list[str] = []

    def lost() -> None:
        late.extend(job.id for job in enqueue(connection, f"late-{len(late)}"))

    proxy.when_lost = lost
    proxy.lose_after = [b"EVAL"] * len(losses)
    assert purge(lossy, "default", "queued") == 17
    assert proxy.lost == len(losses)
    assert queued(connection) == late
    assert connection.keys("rqstack:bulk:*") == []


@pytest.mark.parametrize("given", [False, True])
def test_a_job_is_requeued_once_however_many_replies_are_lost(
    connection: Redis, lossy: Redis, proxy: LossyProxy, given: bool
) -> None:
    jobs = [job.id for job in fail(connection, *numbered("job", 12))]
    proxy.when_lost = lambda: work(connection)  # they have run and failed again when the call is repeated
    proxy.lose_after = [b"EVAL"] * 3
    assert requeue(lossy, "default", jobs if given else None) == Requeued(12, 0)
    assert proxy.lost == 3
    work(connection)
    for each in jobs:
        assert len(Job.fetch(each, connection=connection).results()) == 2, each


def test_a_connection_that_is_cut_with_calls_on_their_way(connection: Redis, few_to_a_call: None) -> None:
    jobs = [job.id for job in fail(connection, *numbered("job", 60))]
    client = Redis(port=connection.connection_pool.connection_kwargs["port"], retry=Retry(NoBackoff(), 3))
    cuts = iter(range(3))

    def cut(_: int) -> None:
        if next(cuts, None) is not None:
            connection.client_kill_filter(_type="normal", skipme=True)

    with client:
        assert requeue(client, "default", progress=cut) == Requeued(60, 0)
    assert queued(connection) == jobs


def test_an_operation_that_redis_has_forgotten_ends(connection: Redis, few_to_a_call: None) -> None:
    fail(connection, *numbered("job", 30))
    with pytest.raises(ResponseError, match="lost data"):
        requeue(connection, "default", progress=lambda _: connection.flushall())
    assert connection.keys("*") == []


# -- groups, limits, dependents


def test_a_purged_job_leaves_its_group(connection: Redis) -> None:
    queue = Queue(connection=connection)
    group = Group.create(connection=connection)
    jobs = group.enqueue_many(queue, [Queue.prepare_data("time.time", job_id=each) for each in ("a", "b")])
    connection.lrem("rq:queue:default", 1, jobs[1].id)
    assert purge(connection, "default", "queued") == 1
    assert connection.smembers(f"rq:group:{group.name}") == {b"b"}


def test_a_purged_job_gives_its_slot_to_the_next(connection: Redis) -> None:
    enqueue(connection, "a", "b", "c", rate_limit=RateLimit("few", 2))
    enqueue(connection, "plain")
    assert (queued(connection), status(connection, "c")) == (["a", "b", "plain"], "rate_limited")
    assert purge(connection, "default", "queued") == 3
    assert (queued(connection), status(connection, "c")) == (["c"], "queued")
    assert connection.zrange("rq:rl:few:allowed", 0, -1) == [b"c"]


def test_a_run_keeps_its_slot_while_its_job_is_purged(connection: Redis) -> None:
    enqueue(connection, "a", "b", rate_limit=RateLimit("few", 1))
    connection.zadd("rq:executions:a", {"e" * 32: time.time() + 100})
    assert purge(connection, "default", "queued") == 1
    assert status(connection, "b") == "rate_limited"
    assert connection.zrange("rq:rl:few:allowed", 0, -1) == [b"a"]


def test_jobs_that_wait_for_a_purged_one_go_on_waiting_as_after_rqs_delete(connection: Redis) -> None:
    queue = Queue(connection=connection)
    ours, rqs = fail(connection, "ours", "rqs")
    for parent in (ours, rqs):
        queue.enqueue("time.time", job_id=f"after-{parent.id}", depends_on=parent)
    purge(connection, "default", "failed") if rqs.delete() is None else None
    assert [status(connection, f"after-{each}") for each in ("ours", "rqs")] == ["deferred"] * 2
    assert not connection.exists(ours.key, ours.dependents_key, rqs.key, rqs.dependents_key)
    assert connection.zcard("rq:deferred:default") == 2


def test_a_requeued_job_may_crash_as_often_as_a_new_one(connection: Redis) -> None:
    fail(connection, "poison")
    connection.hset("rqstack:crashes:poison", mapping={"count": 3, "execution": "e"})
    assert requeue(connection, "default") == Requeued(1, 0)
    assert not connection.exists("rqstack:crashes:poison")


@pytest.mark.parametrize("given", [False, True])
def test_a_failed_job_that_has_gone_on_is_not_requeued(connection: Redis, given: bool) -> None:
    fail(connection, "a", "b")
    connection.hset("rq:job:a", "status", "started")
    assert requeue(connection, "default", ["a", "b", "b", "nobody"] if given else None) == Requeued(1, 0)
    assert (queued(connection), status(connection, "a")) == (["b"], "started")
    assert connection.zcard("rq:failed:default") == 0


def test_a_damaged_limit_keeps_a_job_with_the_failed(connection: Redis) -> None:
    fail(connection, "a", rate_limit=RateLimit("few", 1))
    connection.delete("rq:rl:few:allowed")
    connection.set("rq:rl:few:allowed", "a string")
    before = connection.hgetall("rq:job:a")
    with pytest.raises(ResponseError, match="rq:rl:few:allowed is not a zset"):
        requeue(connection, "default")
    assert connection.hgetall("rq:job:a") == before
    assert connection.zrange("rq:failed:default", 0, -1) == [b"a"]


# -- cancel


def place(connection: Redis, state: str, name: str, limit: RateLimit | None) -> Job:
    """A job in a state, as RQ has it."""
    queue = Queue(connection=connection)
    options: dict[str, Any] = {"job_id": name, "rate_limit": limit}
    if state == "scheduled":
        return queue.enqueue_in(timedelta(hours=1), "time.time", **options)
    if state == "deferred":
        return queue.enqueue("time.time", depends_on=enqueue(connection, "first")[0], **options)
    if state == "failed":
        return fail(connection, name, rate_limit=limit)[0]
    job = queue.enqueue("time.time", **options)
    if state == "finished":
        work(connection)
    elif state == "started":
        worker = QuickWorker([queue], connection=connection, name="w")
        connection.lrem(queue.key, 1, name)
        worker.prepare_execution(job)
        worker.prepare_job_execution(job)
    elif state == "ready_to_enqueue":
        connection.lrem(queue.key, 1, name)
        job.set_status(state)  # type: ignore[arg-type]
        connection.zadd("rq:ready:default", {name: 1})
    return job


def content(connection: Redis) -> dict[bytes, object]:
    """All keys and values, without times."""
    found: dict[bytes, object] = {}
    for key in connection.scan_iter("*"):
        kind = connection.type(key)
        if kind == b"hash":
            found[key] = {k: v for k, v in connection.hgetall(key).items() if not k.endswith((b"_at", b"heartbeat"))}
        elif kind == b"list":
            found[key] = connection.lrange(key, 0, -1)
        elif kind == b"set":
            found[key] = connection.smembers(key)
        elif kind == b"zset":
            found[key] = connection.zrange(key, 0, -1)
        else:
            found[key] = kind
    return found


def after_both(connection: Redis, ours: Callable[[], object], rqs: Callable[[], object]) -> tuple[Any, Any]:
    """What two ways leave behind, from the same state."""
    before = {key: (connection.dump(key), max(connection.pttl(key), 0)) for key in connection.scan_iter("*")}
    rqs()
    wanted = content(connection)
    connection.flushall()
    for key, (dump, ttl) in before.items():
        connection.restore(key, ttl, dump)
    ours()
    return content(connection), wanted


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("enqueue_dependents", [False, True])
@pytest.mark.parametrize(
    "state", ["queued", "scheduled", "deferred", "failed", "finished", "started", "ready_to_enqueue"]
)
def test_a_job_is_canceled_as_by_rq(connection: Redis, state: str, enqueue_dependents: bool, limited: bool) -> None:
    limit = RateLimit("few", 1) if limited else None
    job = place(connection, state, "job", limit)
    assert job.get_status() == state
    queue = Queue(connection=connection)
    if limited:
        queue.enqueue("time.time", job_id="next", rate_limit=limit)
    for name, others in (("after", []), ("after-two", ["other"])):
        parents = [job, *(queue.enqueue("time.time", job_id=each) for each in others)]
        child = queue.enqueue("time.time", job_id=name, depends_on=parents)
        if state in ("finished", "failed") and child.get_status() != "deferred":
            connection.lrem(queue.key, 1, name)  # its parent has finished: there is nothing to release
            child.delete()
    found, wanted = after_both(
        connection,
        lambda: cancel(connection, "job", enqueue_dependents),
        lambda: Job.fetch("job", connection=connection).cancel(enqueue_dependents=enqueue_dependents),
    )
    assert found == wanted
    again = content(connection)
    assert cancel(connection, "job", enqueue_dependents)
    assert content(connection) == again


def test_who_is_not_there_cannot_be_canceled(connection: Redis) -> None:
    assert cancel(connection, "nobody") is False
    assert connection.keys("*") == []


def test_a_canceled_run_keeps_its_slot_until_it_ends(connection: Redis) -> None:
    limit = RateLimit("few", 1)
    place(connection, "started", "job", limit)
    enqueue(connection, "next", rate_limit=limit)
    assert cancel(connection, "job")
    assert (status(connection, "job"), status(connection, "next")) == ("canceled", "rate_limited")
    assert connection.zcard("rq:wip:default") == 0


def test_a_lost_reply_cancels_once(connection: Redis, lossy: Redis, proxy: LossyProxy) -> None:
    enqueue(connection, "job")
    Queue(connection=connection).enqueue("time.time", job_id="after", depends_on="job")
    proxy.lose_after = [b"EVAL"] * 2
    assert cancel(lossy, "job", True)
    assert proxy.lost == 2
    assert (queued(connection), status(connection, "job")) == (["after"], "canceled")
