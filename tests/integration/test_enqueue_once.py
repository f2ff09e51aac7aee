"""Every kind of enqueue whose reply is lost, at each try, also when the job has run before the next try."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import rq
from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.connection import Connection
from redis.retry import Retry
from rq import RateLimit, SimpleWorker
from rq.exceptions import DuplicateJobError
from rq.job import Dependency, Job
from rq.timeouts import TimerDeathPenalty

from rqstack import task
from rqstack.enqueue import Queue
from rqstack.errors import BrokerUnavailable, InvalidJob
from rqstack.settings import get_settings
from support.proxy import LossyProxy
from support.redis_server import RedisServer

RUNS: list[str] = []
LATER = datetime(2040, 1, 2, tzinfo=UTC)


@task(unique=True)
def once(number: int) -> int:
    return note(number)


@task
def add(number: int) -> int:
    return note(number)


@task(concurrency=1)
def alone(number: int) -> int:
    return note(number)


@task(unique=True, concurrency=1, result_ttl=500)
def once_alone(number: int) -> int:
    return note(number)


def note(number: int) -> int:
    job = rq.get_current_job()
    assert job is not None
    RUNS.append(job.id)
    if number < 0:
        raise ValueError(number)
    return number


def succeeded(job: Job, connection: Redis, result: object) -> None: ...


class ThreadWorker(SimpleWorker):
    """RQ's worker, which may run in any thread."""

    death_penalty_class = TimerDeathPenalty

    def _install_signal_handlers(self) -> None:
        pass

    def subscribe(self) -> None:
        """No thread for commands: ending it takes a while."""

    def unsubscribe(self) -> None:
        pass


def work(connection: Redis) -> None:
    ThreadWorker(["default"], connection=connection, serializer=queue_of(connection).serializer).work(burst=True)


def queue_of(connection: Redis) -> Queue:
    from rqstack.enqueue import get_queue

    return get_queue("default", connection=connection)


def queued(connection: Redis) -> list[str]:
    return [identifier.decode() for identifier in connection.lrange("rq:queue:default", 0, -1)]


def members(connection: Redis, key: str) -> list[str]:
    return [identifier.decode() for identifier in connection.zrange(key, 0, -1)]


def status(connection: Redis, job_id: str) -> str | None:
    found = connection.hget(f"rq:job:{job_id}", "status")
    return found.decode() if found else None


@pytest.fixture(autouse=True)
def fresh(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "the key of the tests")
    get_settings.cache_clear()
    RUNS.clear()


@pytest.fixture
def lossy(proxy: LossyProxy) -> Iterator[Redis]:
    client = Redis(port=proxy.port, retry=Retry(NoBackoff(), 3))
    client.ping()
    yield client
    client.close()


# Each enqueues one job to `default` through a client, and returns it.
KINDS: dict[str, Callable[[Redis], Job]] = {
    "plain": lambda client: add.enqueue([1], connection=client),
    "unique": lambda client: once.enqueue([1], connection=client),
    "unique-named": lambda client: once.enqueue([1], connection=client, job_id="mine"),
    "unique-concurrency": lambda client: once_alone.enqueue([1], connection=client),
    "unique-depends": lambda client: once.enqueue([1], connection=client, depends_on="ended"),
    "depends": lambda client: add.enqueue([1], connection=client, depends_on="ended"),
    "depends-front": lambda client: add.enqueue([1], connection=client, depends_on=["ended", "gone"], at_front=True),
    "concurrency": lambda client: alone.enqueue([1], connection=client),
    "concurrency-front": lambda client: alone.enqueue([1], connection=client, at_front=True),
    "concurrency-depends": lambda client: alone.enqueue([1], connection=client, depends_on="ended"),
    "retries": lambda client: add.enqueue([-1], connection=client, retries=2),
    "concurrency-retries": lambda client: alone.enqueue([-1], connection=client, retries=2),
    "callback": lambda client: add.enqueue([1], connection=client, on_success=rq.Callback(succeeded)),
    "ttl": lambda client: add.enqueue([1], connection=client, depends_on="ended", ttl=900),
    "rq-unique": lambda client: queue_of(client).enqueue(add.name, 1, job_id="mine", unique=True),
    "rq-rate-limit": lambda client: queue_of(client).enqueue(add.name, 1, rate_limit=RateLimit("few", 1)),
    "rq-job": lambda client: queue_of(client).enqueue_job(queue_of(client).create_job(add.name, (1,))),
    "rq-job-retries": lambda client: queue_of(client).enqueue_job(
        queue_of(client).create_job(add.name, (-1,), retry=rq.Retry(2))
    ),
    "rq-job-unique": lambda client: queue_of(client).enqueue_job(
        queue_of(client).create_job(add.name, (1,), job_id="mine"), unique=True
    ),
    "rq-job-depends": lambda client: queue_of(client).enqueue_job(
        queue_of(client).create_job(add.name, (1,), depends_on="ended")
    ),
    "rq-job-stored": lambda client: queue_of(client).enqueue_job(stored(client)),
    "many": lambda client: add.enqueue_many([(1,)], connection=client)[0],
    "many-depends": lambda client: add.enqueue_many([(1,)], connection=client, depends_on="ended")[0],
    "many-concurrency": lambda client: alone.enqueue_many([(1,)], connection=client)[0],
}
# Not to run now.
WAITING: dict[str, tuple[str, Callable[[Redis], Job]]] = {
    "depends": ("deferred", lambda client: add.enqueue([1], connection=client, depends_on="open")),
    "depends-on-failed": ("deferred", lambda client: add.enqueue([1], connection=client, depends_on="failed")),
    "unique-depends": ("deferred", lambda client: once.enqueue([1], connection=client, depends_on=["open", "ended"])),
    "concurrency-depends": ("deferred", lambda client: alone.enqueue([1], connection=client, depends_on="open")),
    "many-depends": ("deferred", lambda client: add.enqueue_many([(1,)], connection=client, depends_on="open")[0]),
    "concurrency": ("rate_limited", lambda client: alone.enqueue([1], connection=client, concurrency_key="taken")),
    "unique-concurrency": (
        "rate_limited",
        lambda client: once_alone.enqueue([1], connection=client, concurrency_key="taken"),
    ),
    "at": ("scheduled", lambda client: add.enqueue([1], connection=client, at=LATER)),
    "at-unique": ("scheduled", lambda client: once.enqueue([1], connection=client, at=LATER)),
    "at-concurrency": ("scheduled", lambda client: alone.enqueue([1], connection=client, at=LATER)),
    "in": ("scheduled", lambda client: add.enqueue([1], connection=client, in_=5000, at_front=True)),
    "rq-at": ("scheduled", lambda client: queue_of(client).enqueue_at(LATER, add.name, 1)),
    "rq-at-unique": (
        "scheduled",
        lambda client: queue_of(client).enqueue_at(LATER, add.name, 1, job_id="mine", unique=True),
    ),
    "rq-job-at": ("scheduled", lambda client: queue_of(client).schedule_job(stored(client), LATER)),
}
REGISTRIES = {
    "deferred": "rq:deferred:default",
    "scheduled": "rq:scheduled:default",
    "rate_limited": "rq:rl:taken:rate_limited",
}


def stored(client: Redis) -> Job:
    """A job that is in Redis before it is enqueued."""
    job: Job = queue_of(client).create_job(add.name, (1,), job_id="stored")
    job.save()
    return job


def prepare(connection: Redis) -> None:
    """An ended, a failed and an open job; a limit whose slot is taken; and no job of the calls under test."""
    for name, state in (("ended", "finished"), ("failed", "failed"), ("open", "started")):
        connection.hset(f"rq:job:{name}", mapping={"status": state, "data": b"", "origin": "other"})
    connection.zadd("rq:rl:taken:allowed", {"open": 1})


def lose(proxy: LossyProxy, times: int) -> None:
    proxy.lose_after = [b"EVAL"] * times


@pytest.mark.parametrize("losses", [0, 1, 3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_lost_reply_enqueues_once(connection: Redis, proxy: LossyProxy, lossy: Redis, kind: str, losses: int) -> None:
    prepare(connection)
    proxy.lose_after = lost_commands(kind, losses)
    job = KINDS[kind](lossy)
    assert proxy.lost == losses
    assert queued(connection) == [job.id]
    assert status(connection, job.id) == job.get_status(refresh=False) == "queued"
    assert members(connection, "rq:deferred:default") == []
    assert Job.fetch(job.id, connection=connection, serializer=queue_of(connection).serializer).enqueued_at
    work(connection)
    runs = 3 if "retries" in kind else 1
    assert [job.id] * runs == RUNS
    assert queued(connection) == []


@pytest.mark.parametrize("losses", [1, 3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_job_that_ran_before_the_next_try_does_not_run_again(
    connection: Redis, proxy: LossyProxy, lossy: Redis, kind: str, losses: int
) -> None:
    """Also a failed one that is retried, and a unique one, which has ended and may be replaced by others."""
    prepare(connection)
    proxy.lose_after = lost_commands(kind, losses)
    proxy.when_lost = lambda: work(connection)
    job = KINDS[kind](lossy)
    work(connection)
    assert proxy.lost == losses
    assert [job.id] * (3 if "retries" in kind else 1) == RUNS
    assert job.get_status() == ("failed" if "retries" in kind else "finished")
    assert queued(connection) == []
    assert connection.xlen(f"rq:results:{job.id}") == 1
    assert not connection.exists(f"rq:executions:{job.id}")


def lost_commands(kind: str, losses: int) -> list[bytes]:
    """A plain bulk asks whether its first try was done; everything else is sent again."""
    return [b"EXEC", *[b"HGET"] * (losses - 1)][:losses] if kind == "many" else [b"EVAL"] * losses


@pytest.mark.parametrize("losses", [0, 1, 3])
@pytest.mark.parametrize("kind", sorted(WAITING))
def test_a_lost_reply_of_a_job_that_waits_changes_nothing(
    connection: Redis, proxy: LossyProxy, lossy: Redis, kind: str, losses: int
) -> None:
    prepare(connection)
    wanted, act = WAITING[kind]
    lose(proxy, losses)
    job = act(lossy)
    assert proxy.lost == losses
    assert status(connection, job.id) == job.get_status(refresh=False) == wanted
    assert members(connection, REGISTRIES[wanted]) == [job.id]
    assert queued(connection) == []
    for dependency in job._dependency_ids if wanted == "deferred" else []:
        assert connection.smembers(f"rq:job:{dependency}:dependents") == {job.id.encode()}
    if wanted == "deferred":
        assert sorted(job.dependency_ids) == sorted(job._dependency_ids)


@pytest.mark.parametrize("kind", sorted(WAITING))
def test_what_waited_and_ran_before_the_next_try_does_not_wait_again(
    connection: Redis, proxy: LossyProxy, lossy: Redis, kind: str
) -> None:
    """The first try's job has moved on to the queue, and has ended, before the second try comes."""
    prepare(connection)
    wanted, act = WAITING[kind]

    def move_on() -> None:
        for identifier in members(connection, REGISTRIES[wanted]):
            connection.zrem(REGISTRIES[wanted], identifier)
            connection.hset(f"rq:job:{identifier}", mapping={"status": "queued", "enqueued_at": "2001-01-01T00:00:00Z"})
            connection.rpush("rq:queue:default", identifier)
        work(connection)

    lose(proxy, 1)
    proxy.when_lost = move_on
    job = act(lossy)
    assert proxy.lost == 1
    assert [job.id] == RUNS
    assert job.get_status(refresh=False) == status(connection, job.id) == "finished"
    assert members(connection, REGISTRIES[wanted]) == []
    assert queued(connection) == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_command_that_never_arrived_is_done_by_the_next(
    connection: Redis, proxy: LossyProxy, lossy: Redis, kind: str
) -> None:
    prepare(connection)
    add.enqueue([0], connection=lossy, queue="warm")  # leaves a connection for the next call
    proxy.cut()
    job = KINDS[kind](lossy)
    assert queued(connection) == [job.id]


@pytest.mark.parametrize("losses", [1, 2, 3])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"many"}))
def test_redis_has_forgotten_the_script_and_replies_are_lost(
    connection: Redis, proxy: LossyProxy, lossy: Redis, kind: str, losses: int
) -> None:
    prepare(connection)
    connection.script_flush()
    lose(proxy, losses)
    job = KINDS[kind](lossy)
    assert proxy.lost == losses
    assert queued(connection) == [job.id]


@pytest.mark.parametrize("kind", sorted(set(KINDS) | set(WAITING)))
def test_it_is_one_round_trip(connection: Redis, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    prepare(connection)
    client = Redis(port=connection.connection_pool.connection_kwargs["port"])
    act = KINDS.get(kind) or WAITING[kind][1]
    act(client)  # loads the script, opens the connection
    for key in connection.scan_iter("rq:*"):
        connection.delete(key)
    prepare(connection)
    sent: list[object] = []

    def send(self: Connection, command: object, *args: Any, **options: Any) -> None:
        sent.append(command)
        original(self, command, *args, **options)

    original = Connection.send_packed_command
    monkeypatch.setattr(Connection, "send_packed_command", send)
    act(client)
    saved = kind in ("rq-job-stored", "rq-job-at")
    assert len(sent) == 1 + saved


@pytest.mark.parametrize("state", ["finished", "failed", "stopped", "canceled"])
def test_an_ended_unique_job_is_replaced_without_leftovers(connection: Redis, state: str) -> None:
    once.enqueue([-1 if state == "failed" else 1], connection=connection, job_id="mine", meta={"old": 1})
    if state in ("finished", "failed"):
        work(connection)
    elif state == "canceled":
        Job.fetch("mine", connection=connection, serializer=queue_of(connection).serializer).cancel()
    else:
        connection.delete("rq:queue:default")
        connection.hset("rq:job:mine", "status", "stopped")
        connection.zadd("rq:failed:default", {"mine": 9e9})
        connection.xadd("rq:results:mine", {"type": 3})
    assert status(connection, "mine") == state
    connection.hset("rq:job:mine", "exc_info", "old")
    connection.sadd("rq:job::mine:dependencies", "old")
    connection.sadd("rq:job:mine:dependents", "waits", "ran", "gone")
    connection.hset("rq:job:waits", "status", "deferred")
    connection.hset("rq:job:ran", "status", "finished")
    connection.hset("rqstack:crashes:mine", "count", 2)
    # A canceled job may still run.
    connection.zadd("rq:executions:mine", {"e": 9e9})
    connection.hset("rq:execution:mine:e", "worker_name", "w")
    connection.zadd("rq:wip:default", {"mine:e": 9e9})
    connection.sadd("rq:worker:w:executions", "mine:e")
    job = once.enqueue([1], connection=connection, job_id="mine", queue="other")
    assert (job.id, job.get_status()) == ("mine", "queued")
    assert connection.lrange("rq:queue:other", 0, -1) == [b"mine"]
    kept = sorted(key.decode() for key in connection.scan_iter("*mine*"))
    assert kept == ["rq:job:mine", "rq:job:mine:dependents"]
    assert connection.smembers("rq:job:mine:dependents") == {b"waits"}
    for name in ("finished", "failed", "canceled", "wip"):
        assert members(connection, f"rq:{name}:default") == []
    assert connection.smembers("rq:worker:w:executions") == set()
    fields = connection.hgetall("rq:job:mine")
    assert b"exc_info" not in fields
    assert b"meta" not in fields
    assert job.latest_result() is None


@pytest.mark.parametrize("state", ["queued", "started", "deferred", "scheduled", "rate_limited", "ready_to_enqueue"])
def test_a_unique_job_that_waits_or_runs_is_given(connection: Redis, state: str) -> None:
    first = once.enqueue([1], connection=connection)
    connection.hset(first.key, "status", state)
    before = connection.hgetall(first.key)
    for act in (
        lambda: once.enqueue([1], connection=connection, timeout=7),
        lambda: once.enqueue([1], connection=connection, at=LATER),
        lambda: once.enqueue([1], connection=connection, depends_on="other"),
    ):
        found = act()
        assert (found.id, found.get_status(refresh=False), found.args) == (first.id, state, (1,))
        assert found.created_at == first.created_at
    assert connection.hgetall(first.key) == before
    assert queued(connection) == [first.id]
    assert members(connection, "rq:scheduled:default") == []


def test_a_unique_job_that_ended_may_come_later_too(connection: Redis) -> None:
    first = once.enqueue([1], connection=connection)
    work(connection)
    job = once.enqueue([1], connection=connection, at=LATER)
    assert (job.id, status(connection, job.id)) == (first.id, "scheduled")
    assert members(connection, "rq:scheduled:default") == [first.id]
    assert members(connection, "rq:finished:default") == []
    assert job.latest_result() is None


def test_those_who_wait_for_a_failed_unique_job_get_the_next_ones_outcome(connection: Redis) -> None:
    first = once.enqueue([-1], connection=connection, job_id="mine")
    waits = add.enqueue([2], connection=connection, depends_on=first)
    work(connection)
    assert [status(connection, name) for name in (first.id, waits.id)] == ["failed", "deferred"]
    once.enqueue([1], connection=connection, job_id="mine")
    work(connection)
    assert ["mine", "mine", waits.id] == RUNS
    assert [status(connection, name) for name in (first.id, waits.id)] == ["finished", "finished"]


def test_what_is_left_of_a_job_is_no_job(connection: Redis) -> None:
    connection.hset("rq:job:mine", "last_heartbeat", "2001-01-01T00:00:00.000000Z")
    job = once.enqueue([1], connection=connection, job_id="mine")
    assert queued(connection) == [job.id] == ["mine"]


def test_rqs_own_unique_refuses_an_ended_job_too(connection: Redis, proxy: LossyProxy, lossy: Redis) -> None:
    queue = queue_of(lossy)
    queue.enqueue(add.name, 1, job_id="mine", unique=True)
    work(connection)
    for losses in (0, 2):
        lose(proxy, losses)
        for act in (
            lambda: queue.enqueue(add.name, 1, job_id="mine", unique=True),
            lambda: queue.enqueue_at(LATER, add.name, 1, job_id="mine", unique=True),
        ):
            with pytest.raises(DuplicateJobError, match="'mine' already exists"):
                act()
    assert RUNS == ["mine"]


def test_a_dependency_that_is_gone_is_not_waited_for(connection: Redis) -> None:
    alone_ = add.enqueue([1], connection=connection, depends_on="gone")
    prepare(connection)
    waits = add.enqueue([2], connection=connection, depends_on=["gone", "open"])
    [many] = add.enqueue_many([(3,)], connection=connection, depends_on="gone")
    assert queued(connection) == [alone_.id, many.id]
    assert members(connection, "rq:deferred:default") == [waits.id]


def test_a_dependency_on_itself_is_refused(connection: Redis) -> None:
    with pytest.raises(InvalidJob, match=r"add: Job 'mine' cannot depend on itself\.$"):
        add.enqueue([1], connection=connection, job_id="mine", depends_on="mine")
    queue = queue_of(connection)
    for act in (
        lambda: queue.enqueue(add.name, 1, job_id="mine", depends_on=["other", "mine"]),
        lambda: queue.enqueue_many([queue.prepare_data(add.name, (1,), job_id="mine", depends_on="mine")]),
    ):
        with pytest.raises(ValueError, match="'mine' cannot depend on itself"):
            act()
    assert connection.keys("rq:*") == []


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_cycle_of_dependencies_is_refused(connection: Redis, length: int) -> None:
    """Each waits for the next one, which comes later, and for one that is open."""
    prepare(connection)
    for number in range(length):
        add.enqueue([1], connection=connection, job_id=f"j{number}", depends_on=[f"j{number + 1}", "open"])
    before = sorted(connection.keys())
    last = f"j{length}"
    said = f"Job '{last}' cannot wait for job 'j{length - 1}', which waits for it"
    with pytest.raises(InvalidJob, match=said):
        add.enqueue([1], connection=connection, job_id=last, depends_on="j0")
    queue = queue_of(connection)
    with pytest.raises(ValueError, match=said):
        queue.enqueue_many([queue.prepare_data(add.name, (1,), job_id=last, depends_on="j0")])
    assert sorted(connection.keys()) == before
    assert add.enqueue([1], connection=connection, job_id=last, depends_on="open").get_status() == "deferred"


def test_a_cycle_within_a_bulk_is_refused_and_nothing_enqueued(connection: Redis) -> None:
    queue = queue_of(connection)
    datas = [
        queue.prepare_data(add.name, (1,), job_id=f"j{number}", depends_on=f"j{(number + 1) % 3}")
        for number in range(3)
    ]
    with pytest.raises(ValueError, match="which waits for it"):
        queue.enqueue_many([queue.prepare_data(add.name, (1,)), *datas])
    assert connection.keys("rq:*") == []


@pytest.mark.parametrize(("length", "losses"), [(2000, 0), (3, 1), (3, 3)])
def test_a_chain_in_one_bulk_keeps_its_order(
    connection: Redis, proxy: LossyProxy, lossy: Redis, length: int, losses: int
) -> None:
    """Each depends on the one after it."""
    queue = queue_of(lossy if losses else connection)
    names = [f"j{number}" for number in range(length)]
    datas = [
        queue.prepare_data(add.name, (1,), job_id=name, depends_on=following)
        for name, following in zip(names, [*names[1:], None], strict=True)
    ]
    lose(proxy, losses)
    jobs = queue.enqueue_many(datas)
    assert proxy.lost == losses
    assert sorted(job.id for job in jobs) == sorted(names)
    assert queued(connection) == [names[-1]]
    assert sorted(members(connection, "rq:deferred:default")) == sorted(names[:-1])
    for name, following in itertools.pairwise(names):
        assert connection.smembers(f"rq:job:{following}:dependents") == {name.encode()}


def test_a_job_may_depend_on_failures(connection: Redis) -> None:
    prepare(connection)
    job = add.enqueue([1], connection=connection, depends_on=Dependency(["failed"], allow_failure=True))
    assert queued(connection) == [job.id]


@pytest.mark.parametrize(
    "key", ["rq:queue:default", "rq:queues", "rq:deferred:default", "rq:job:open:dependents", "rq:rl:few:allowed"]
)
def test_nothing_is_written_where_a_key_is_damaged(connection: Redis, key: str) -> None:
    prepare(connection)
    connection.delete(key)
    connection.set(key, "damaged")
    before = sorted(connection.keys())
    depends = "open" if "open" in key or "deferred" in key else "ended"
    with pytest.raises(BrokerUnavailable, match="damaged record"):
        alone.enqueue([1], connection=connection, concurrency_key="few", depends_on=depends)
    assert sorted(connection.keys()) == before


def test_too_few_replicas_are_named(own_redis: RedisServer) -> None:
    client = own_redis.client()
    client.config_set("min-replicas-to-write", "1")
    said = r"has too few replicas in step, so it takes no new jobs\. Start replicas, or lower min-replicas-to-write"
    for act in (
        lambda: add.enqueue([1], connection=client),
        lambda: once.enqueue([1], connection=client),
        lambda: add.enqueue_many([(1,)], connection=client),
        lambda: add.enqueue_many([(1,)], connection=client, depends_on="x"),
    ):
        with pytest.raises(BrokerUnavailable, match=said):
            act()
    client.config_set("min-replicas-to-write", "0")
    assert client.keys("rq:*") == []


def test_a_replica_is_named(own_redis: RedisServer) -> None:
    client = own_redis.client()
    client.replicaof("127.0.0.1", "1")
    with pytest.raises(
        BrokerUnavailable, match=r"is a replica, which takes no new jobs\. Set REDIS_URL to its primary"
    ):
        once.enqueue([1], connection=client)


def test_a_client_of_its_own_class_is_used(connection: Redis) -> None:
    """What it overrides, such as to trace commands, is called."""

    class Traced(Redis):
        names: list[str] = []

        def execute_command(self, *args: Any, **options: Any) -> Any:
            self.names.append(args[0])
            return super().execute_command(*args, **options)

    client = Traced(port=connection.connection_pool.connection_kwargs["port"])
    prepare(connection)
    connection.script_flush()
    jobs = [once.enqueue([1], connection=client), add.enqueue([2], connection=client, depends_on="ended")]
    assert once.enqueue([1], connection=client).id == jobs[0].id
    jobs += alone.enqueue_many([(1,), (2,)], connection=client)
    assert [name for name in Traced.names if name.startswith("EVAL")] == ["EVALSHA", "EVAL", "EVALSHA", "EVALSHA"]
    assert queued(connection) == [job.id for job in jobs[:3]]
    assert [status(connection, job.id) for job in jobs] == ["queued", "queued", "queued", "rate_limited"]


def test_a_pipeline_is_left_to_its_owner(connection: Redis) -> None:
    prepare(connection)
    pipeline: Pipeline
    with connection.pipeline() as pipeline:
        job = add.enqueue([1], connection=connection, pipeline=pipeline, depends_on="open")
        later = add.enqueue([1], connection=connection, pipeline=pipeline, at=LATER)
        assert members(connection, "rq:deferred:default") == []
        pipeline.execute()
    assert members(connection, "rq:deferred:default") == [job.id]
    assert members(connection, "rq:scheduled:default") == [later.id]
