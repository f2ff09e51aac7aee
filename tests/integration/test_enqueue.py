"""What the queue writes is what RQ's queue writes, for every option and every way to enqueue."""

from __future__ import annotations

import operator
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import rq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from rq import Callback, RateLimit, Retry
from rq.job import Dependency, Job, JobStatus
from rq.repeat import Repeat
from rq.utils import utcformat
from rq.webhook import Webhook

import rqstack.enqueue.job_fields as fields
from rqstack.enqueue import Queue
from rqstack.enqueue.any_job import CALL_FIELD
from rqstack.settings import get_settings
from rqstack.transport import protocol, timestamps

NOW = datetime(2031, 5, 4, 3, 2, 1, 7, tzinfo=UTC)
PUT: dict[str, Callable[[rq.Queue, dict[str, Any]], Any]] = {}


def way(function: Callable[[rq.Queue, dict[str, Any]], Any]) -> Callable[[rq.Queue, dict[str, Any]], Any]:
    PUT[function.__name__] = function
    return function


@way
def enqueue(queue: rq.Queue, call: dict[str, Any]) -> Any:
    named = {"job_timeout" if name == "timeout" else name: value for name, value in call.items()}
    return [queue.enqueue(named.pop("func"), **named)]


@way
def enqueue_with_plain_arguments(queue: rq.Queue, call: dict[str, Any]) -> Any:
    named = {"job_timeout" if name == "timeout" else name: value for name, value in call.items()}
    args, kwargs = named.pop("args", ()) or (), named.pop("kwargs", {}) or {}
    return [queue.enqueue(named.pop("func"), *args, **kwargs, **named)]


@way
def enqueue_call(queue: rq.Queue, call: dict[str, Any]) -> Any:
    return [queue.enqueue_call(**call)]


@way
def enqueue_job(queue: rq.Queue, call: dict[str, Any]) -> Any:
    call = dict(call)
    at_front = call.pop("at_front", False)
    return [queue.enqueue_job(queue.create_job(**call), at_front=at_front)]


@way
def enqueue_many(queue: rq.Queue, call: dict[str, Any]) -> Any:
    call = dict(call)
    identifier = call.pop("job_id", None)
    others = [queue.prepare_data("a.b", (number,), job_id=f"n{number}") for number in range(3)]
    return queue.enqueue_many([others[0], queue.prepare_data(**call, job_id=identifier), *others[1:]], group_id="g")


class Near(int):
    """Seconds to live, of which some may pass between two looks."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int) and abs(int(self) - int(other)) <= (5 if self > 0 else 0)

    __hash__ = int.__hash__


def plain_hash(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """`data` as RQ reads it: a short one is not compressed here, though it is a zlib stream all the same."""
    fields.pop(CALL_FIELD.encode(), None)
    return {name: zlib.decompress(value) if name == b"data" else value for name, value in fields.items()}


def dump(connection: Redis) -> dict[bytes, Any]:
    """All that a Redis holds: type, seconds to live, value."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": lambda key: plain_hash(connection.hgetall(key)),
        b"list": lambda key: connection.lrange(key, 0, -1),
        b"set": connection.smembers,
        b"zset": lambda key: connection.zrange(key, 0, -1, withscores=True),
    }
    found = {}
    for key in connection.scan_iter():
        kind = connection.type(key)
        found[key] = (kind, Near(connection.ttl(key)), read[kind](key))
    return found


def seen(job: Job) -> dict[str, Any]:
    """A job's attributes, apart from the client and the version of its server."""
    attributes = dict(vars(job))
    for name in ("connection", "redis_server_version"):
        attributes.pop(name)
    job.data  # noqa: B018 - RQ builds it when asked
    return attributes | {"_data": job.data, "retry_intervals": job.retry_intervals}


def pack_text(command: tuple[Any, ...], pack: Callable[[Any], bytes] = protocol._pack) -> bytes:
    """What packs a command; a number in it could end the process, see `protocol.pack`."""
    assert not [part for part in command if type(part) in (int, float)], command
    return pack(command)


@pytest.fixture
def pair(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Redis, Redis]]:
    """Two empty databases of one server; the clock stands still, random ids are counted."""
    options = connection.connection_pool.connection_kwargs
    other = Redis(port=options["port"], db=1)
    monkeypatch.setattr("rq.job.now", lambda: NOW)
    monkeypatch.setattr("rq.queue.now", lambda: NOW)
    monkeypatch.setattr(fields, "time_ns", lambda: int(NOW.timestamp()) * 10**9 + NOW.microsecond * 1000)
    for module in ("rq.rate_limit", "rqstack.enqueue.any_job"):
        monkeypatch.setattr(f"{module}.now", lambda: NOW)
    for module in ("rq.registry", "rq.rate_limit"):
        monkeypatch.setattr(f"{module}.current_timestamp", lambda: int(NOW.timestamp()))
    monkeypatch.setattr(protocol, "_pack", pack_text)
    monkeypatch.setenv("RQSTACK_SHOW_ARGUMENTS", "1")  # as RQ does
    get_settings.cache_clear()
    yield connection, other
    other.close()


def both(
    pair: tuple[Redis, Redis],
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[rq.Queue], Any],
    prepare: Callable[[Redis], Any] = lambda connection: None,
    **options: Any,
) -> None:
    """Do the same to RQ's queue and to ours: the same keys, the same jobs or the same error."""
    outcomes = []
    for cls, client in zip((rq.Queue, Queue), pair, strict=True):
        client.flushdb()
        prepare(client)
        ids = (str(uuid.UUID(int=number)) for number in range(1, 100))
        monkeypatch.setattr("rq.job.uuid4", lambda ids=ids: next(ids))
        monkeypatch.setattr(fields, "new_id", lambda ids=ids: next(ids))
        try:
            jobs: Any = [seen(job) for job in act(cls("odd name: ö", connection=client, **options))]
        except Exception as error:
            jobs = (type(error), str(error))
        outcomes.append((jobs, dump(client)))
    (wanted, wanted_keys), (jobs, keys) = outcomes
    assert jobs == wanted
    if isinstance(wanted, tuple):  # RQ may register the queue before it fails
        wanted_keys.pop(b"rq:queues", None)
        keys.pop(b"rq:queues", None)
    assert keys == wanted_keys


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.from_regex(r"[a-z]{1,8}_", fullmatch=True)  # none of RQ's options ends in _
seconds = st.sampled_from([None, 90, 86_400, 2**31, "45", "10m", "2h", -1, 0, True, 3.7, "soon"])
callbacks = st.sampled_from([None, Callback("a.success"), Callback(operator.add, timeout="2m")])
calls = st.fixed_dictionaries(
    {"func": st.sampled_from([operator.add, "some.module.task", uuid.uuid4, b"x".join, datetime, 7])},
    optional={
        "args": st.none() | st.lists(plain, max_size=4).map(tuple) | st.lists(plain, max_size=2),
        "kwargs": st.none() | st.dictionaries(names, plain, max_size=3),
        "timeout": seconds,
        "result_ttl": seconds,
        "ttl": seconds,
        "failure_ttl": seconds,
        "description": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        "job_id": st.none() | st.sampled_from(["an-id_7", "", "not allowed", "a:b", 5]),
        "at_front": st.booleans(),
        "meta": st.none() | st.dictionaries(st.text(), plain, max_size=3),
        "retry": st.sampled_from([None, Retry(3), Retry(2, interval=[1, 60]), Retry(1, 5, enqueue_at_front=True)]),
        "repeat": st.sampled_from([None, Repeat(2), Repeat(times=3, interval=[5, 10])]),
        "on_success": callbacks,
        "on_failure": callbacks,
        "on_stopped": callbacks,
        "rate_limit": st.sampled_from([None, RateLimit("few", 2)]),
        "webhooks": st.sampled_from([None, [], [Webhook("http://localhost/x", "finished", headers={"a": "b"})]]),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls, how=st.sampled_from(sorted(PUT)), serializer=st.sampled_from([None, "json"]))
def test_any_call_writes_what_rq_writes(
    pair: tuple[Redis, Redis],
    monkeypatch: pytest.MonkeyPatch,
    call: dict[str, Any],
    how: str,
    serializer: str | None,
) -> None:
    both(pair, monkeypatch, lambda queue: PUT[how](queue, call), serializer=serializer, default_timeout=77)


@pytest.mark.parametrize("how", sorted(PUT))
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"args": (1, "two"), "kwargs": {"x": 3}},
        {"timeout": -1},
        {"result_ttl": 0},
        {"result_ttl": -1},
        {"failure_ttl": 9},
        {"ttl": 900},
        {"description": "what it does"},
        {"job_id": "mine"},
        {"at_front": True},
        {"meta": {"who": "me"}},
        {"retry": Retry(4, interval=[1, 2])},
        {"repeat": Repeat(3, interval=4)},
        {"on_success": Callback("a.b")},
        {"on_failure": Callback("a.b", timeout=4)},
        {"on_stopped": Callback("a.b")},
        {"rate_limit": RateLimit("few", 2)},
        {"webhooks": [Webhook("https://localhost/hook", "failed", method="POST")]},
    ],
    ids=lambda option: "-".join(option) or "none",
)
def test_each_option_writes_what_rq_writes(
    pair: tuple[Redis, Redis], monkeypatch: pytest.MonkeyPatch, how: str, option: dict[str, Any]
) -> None:
    both(pair, monkeypatch, lambda queue: PUT[how](queue, {"func": operator.add, **option}))


@pytest.mark.parametrize("how", sorted(PUT))
def test_an_id_used_again_changes_what_rq_changes(
    pair: tuple[Redis, Redis], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A given id may exist: RQ writes over its fields, leaves the others, and lists it once more."""

    def prepare(client: Redis) -> None:
        client.hset("rq:job:mine", mapping={"status": "failed", "exc_info": "x", "created_at": "long ago"})
        client.sadd("rq:job:mine:dependents", "other")
        client.rpush("rq:queue:odd name: ö", "mine")

    call = {"func": "a.b", "job_id": "mine", "ttl": 300}
    both(pair, monkeypatch, lambda queue: PUT[how](queue, call), prepare)


@pytest.mark.parametrize(
    "act",
    [
        lambda queue: [queue.enqueue("a.b", job_id="one", unique=True)],
        lambda queue: [queue.enqueue("a.b", job_id="one"), queue.enqueue("a.c", depends_on="one")],
        lambda queue: queue.enqueue_many(
            [queue.prepare_data("a.b", job_id="one"), queue.prepare_data("a.c", depends_on="one")]
        ),
        lambda queue: [queue.enqueue_at(datetime(2040, 1, 1, tzinfo=UTC), "a.b", 1, at_front=True)],
        lambda queue: queue.enqueue_many([]),
        lambda queue: queue.enqueue_many(queue.prepare_data("a.b", (n,), at_front=n % 2 == 0) for n in range(9)),
        lambda queue: [queue.enqueue(operator.add, lambda: 1)],
        lambda queue: queue.enqueue_many([queue.prepare_data("a.b"), queue.prepare_data("a.b", (lambda: 1,))]),
        lambda queue: [queue.enqueue("a.b", unique=True)],
        lambda queue: [queue.enqueue("a.b", job_id="one", unique=True) for _ in range(2)],
        lambda queue: [
            queue.enqueue_at(datetime(2040, 1, 1, tzinfo=UTC), "a.b", job_id="one", unique=True) for _ in range(2)
        ],
        lambda queue: queue.enqueue_many(queue.prepare_data("a.b", job_id=name) for name in ("one", "two", "one")),
        lambda queue: [queue.enqueue("a.b", job_id=name, rate_limit=RateLimit("few", 2)) for name in "abc"],
        lambda queue: [queue.enqueue_in(timedelta(1), "a.b", job_id="one", rate_limit=RateLimit("few", 1))],
        lambda queue: [queue.enqueue("a.b", job_id="one", unique=True, rate_limit=RateLimit("few", 1))],
        lambda queue: [queue.enqueue("a.b", job_id="one", unique=True, depends_on="two")],
        lambda queue: [queue.schedule_job(queue.create_job("a.b"), datetime(2040, 1, 1, tzinfo=UTC), unique=True)],
        lambda queue: [queue.schedule_job(queue.create_job("a.b", ttl=300), datetime(2040, 1, 1))],
        lambda queue: [queue.enqueue_at(datetime(2040, 1, 1, tzinfo=UTC), "a.b", job_timeout="2h", ttl=300)],
    ],
    ids=[
        *("unique", "depends", "bulk-depends", "at", "bulk-empty", "bulk-front", "unpickled", "bulk-unpickled"),
        *("unique-no-id", "duplicate", "at-duplicate", "bulk-duplicate"),
        *("rate-limit", "at-rate-limit", "unique-rate-limit", "unique-depends"),
        *("at-unique-no-id", "at-local", "at-ttl"),
    ],
)
def test_other_ways_to_enqueue_write_what_rq_writes(
    pair: tuple[Redis, Redis], monkeypatch: pytest.MonkeyPatch, act: Callable[[rq.Queue], Any]
) -> None:
    both(pair, monkeypatch, act)


STATES = ("queued", "started", "deferred", "scheduled", "finished", "failed", "stopped", "canceled", "rate_limited")
dependents = st.fixed_dictionaries(
    {"depends_on": st.lists(st.sampled_from([*STATES, "gone"]), min_size=1, max_size=4)},
    optional={
        "allow_failure": st.booleans(),
        "front": st.booleans(),
        "at_front": st.booleans(),
        "ttl": st.sampled_from([None, 90]),
        "timeout": st.sampled_from([None, 5]),
        "job_id": st.sampled_from([None, "mine"]),
        "retry": st.sampled_from([None, Retry(2)]),
        "rate_limit": st.sampled_from([None, RateLimit("few", 1), RateLimit("taken", 1), RateLimit("taken", 3)]),
        "status": st.sampled_from([JobStatus.QUEUED, JobStatus.CREATED]),
    },
)


def one_of_each_state(client: Redis) -> None:
    for state in STATES:
        client.hset(f"rq:job:{state}", mapping={"status": state, "data": zlib.compress(b"x"), "origin": "elsewhere"})
    for number, name in enumerate(("rate_limited", "waits-too")):
        client.zadd("rq:rl:taken:rate_limited", {name: number})
    client.zadd("rq:rl:taken:allowed", {"started": 5})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=dependents, how=st.sampled_from(["enqueue", "enqueue_call", "enqueue_job", "enqueue_at", "schedule_job"]))
def test_dependents_are_written_as_rq_writes_them(
    pair: tuple[Redis, Redis], monkeypatch: pytest.MonkeyPatch, call: dict[str, Any], how: str
) -> None:
    """Whatever the dependencies' statuses, and with a rate limit, a time or a job made by hand."""

    def act(queue: rq.Queue) -> Any:
        named = dict(call, func="a.b")
        dependency = Dependency(
            named.pop("depends_on"),
            allow_failure=named.pop("allow_failure", False),
            enqueue_at_front=named.pop("front", False),
        )
        status, at_front = named.pop("status", JobStatus.QUEUED), named.pop("at_front", False)
        if how in PUT and how != "enqueue_job":
            return PUT[how](queue, named | {"depends_on": dependency, "at_front": at_front})
        if how == "enqueue_at":
            named["job_timeout"] = named.pop("timeout", None)
            return [queue.enqueue_at(NOW, named.pop("func"), depends_on=dependency, at_front=at_front, **named)]
        job = queue.create_job(**named, depends_on=dependency, status=status)
        if how == "schedule_job":
            return [queue.schedule_job(job, NOW)]
        return [queue.enqueue_job(job, at_front=at_front)]

    both(pair, monkeypatch, act, one_of_each_state)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.lists(
        st.tuples(st.lists(st.sampled_from([*STATES, "gone", "j0", "j1"]), max_size=3), st.booleans()), max_size=5
    )
)
def test_a_bulk_of_dependents_is_written_as_rq_writes_it(
    pair: tuple[Redis, Redis], monkeypatch: pytest.MonkeyPatch, batch: list[tuple[list[str], bool]]
) -> None:
    """But RQ leaves jobs whose dependencies have ended in these ones' sets of dependents."""

    def act(queue: rq.Queue) -> Any:
        datas = [queue.prepare_data("a.b", job_id=f"j{number}") for number in range(2)]
        datas += (
            queue.prepare_data("a.b", job_id=f"d{number}", depends_on=depends_on or None, at_front=at_front, ttl=90)
            for number, (depends_on, at_front) in enumerate(batch)
        )
        jobs: list[Job] = queue.enqueue_many(datas, group_id="g")
        client = queue.connection
        for job in jobs:
            if job.get_status(refresh=False) == "queued":
                client.delete(job.dependencies_key)
                for dependency in job._dependency_ids:
                    client.srem(f"rq:job:{dependency}:dependents", job.id)
        return jobs

    both(pair, monkeypatch, act, one_of_each_state)


def test_a_deferred_job_that_is_enqueued_leaves_its_registry(connection: Redis) -> None:
    """RQ does nothing then, and the job waits until another dependency ends."""
    one_of_each_state(connection)
    queue = Queue("q", connection=connection)
    job = queue.enqueue("a.b", depends_on=["queued", "gone"])
    assert queue.enqueue_job(job).get_status() == "deferred"
    assert queue.deferred_job_registry.get_job_ids() == [job.id]
    connection.hset("rq:job:queued", "status", "finished")
    assert queue.enqueue_job(job).get_status() == "queued"
    assert queue.deferred_job_registry.get_job_ids() == []
    assert queue.job_ids == [job.id]


@given(st.binary(max_size=400))
def test_data_reads_back_however_it_is_stored(data: bytes) -> None:
    assert zlib.decompress(fields.compress(data)) == data


def test_ids_are_random_uuids_that_no_fork_gives_again() -> None:
    made = [fields.new_id() for _ in range(600)]
    assert all(uuid.UUID(identifier).version == 4 and str(uuid.UUID(identifier)) == identifier for identifier in made)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, fields.new_id().encode())
        os._exit(0)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    of_child = os.read(reader, 100).decode()
    os.close(reader)
    assert len({*made, of_child, *(fields.new_id() for _ in range(300))}) == 901


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)), st.integers(0, 999_999))
def test_times_are_written_as_rq_writes_them(moment: datetime, other: int) -> None:
    for each in (moment, moment.replace(microsecond=other)):  # the second one's text is known already
        micros = (each - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        assert timestamps.from_micros(micros) == each
        assert timestamps.format_micros(micros) == utcformat(each)
