"""What one call of claim.lua takes from a queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import DefaultSerializer

from rqstack.transport import keys
from rqstack.transport.raw import RawConnection
from rqstack.worker import Worker
from rqstack.worker.scripts import CLAIM
from rqstack.worker.settle import claim_arguments

Claim = Callable[..., list[Any]]


@pytest.fixture
def queue(connection: Redis) -> Queue:
    return Queue("taken", connection=connection)


@pytest.fixture
def claim(connection: Redis, queue: Queue) -> Iterator[Claim]:
    """Claims jobs in the name of another worker each time; returns claim.lua's reply."""
    connection.zadd(keys.SUPERVISORS, {"s": time.time()})
    channel = RawConnection(connection)

    def call(max_jobs: int = 8, meta: bytes = b"") -> list[Any]:
        worker = Worker([queue], connection=connection, serializer=DefaultSerializer)
        fixed_keys = (worker.key, keys.running("s"), keys.SUPERVISORS)
        head = claim_arguments(fixed_keys, [queue.key], (worker.name, "s"), time.time(), max_jobs=max_jobs, meta=meta)
        status, *jobs = channel.run(CLAIM, head)
        assert status == b"jobs"
        return jobs

    yield call
    channel.close()


@pytest.mark.parametrize(
    ("again", "claims"), [("a", [b"a", b"b c"]), ("b", [b"a", b"b", b"c"]), ("c", [b"a b", b"c"]), ("", [b"a b c"])]
)
def test_a_job_that_has_run_before_is_claimed_alone(
    connection: Redis, queue: Queue, claim: Claim, again: str, claims: list[bytes]
) -> None:
    for name in "abc":
        queue.enqueue("shop.tasks.give", job_id=name)
    if again:
        connection.hset(f"rq:job:{again}", "started_at", "2026-01-31T12:00:00.000000Z")
    assert [b" ".join(job[1] for job in claim()) for _ in claims] == claims


def test_a_horse_is_told_of_other_meta_only(connection: Redis, queue: Queue, claim: Claim) -> None:
    for name, meta in (("none", {}), ("same", {}), ("other", {"who": "me"})):
        queue.enqueue("shop.tasks.give", job_id=name, meta=meta)
    release = DefaultSerializer.dumps({"release": "r1"})
    connection.hset("rq:job:same", "meta", release)
    assert {job[1]: job[7] for job in claim(meta=release)} == {b"none": b"0", b"same": b"0", b"other": b"1"}
    assert connection.hget("rq:job:none", "meta") == release


def test_a_repeated_claim_refuses_the_same_origin(connection: Redis, queue: Queue) -> None:
    """The reply was lost that said that the job's origin is no queue."""
    connection.zadd(keys.SUPERVISORS, {"s": time.time()})
    queue.enqueue("shop.tasks.give", job_id="hostile")
    connection.hset("rq:job:hostile", "origin", "elsewhere")
    connection.hset("rq:wip:elsewhere", "precious", 1)
    channel = RawConnection(connection)
    fixed_keys = ("rq:worker:w", keys.running("s"), keys.SUPERVISORS)
    head = claim_arguments(fixed_keys, [queue.key], ("w", "s"), time.time())
    first = channel.run(CLAIM, head)
    assert [first[1][place] for place in (0, 1, 3, 7)] == [b"taken", b"hostile", None, b"origin"]
    assert channel.run(CLAIM, head) == first
    channel.close()
