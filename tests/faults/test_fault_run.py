"""The account of `make faults` sees what it is there to see."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from fault_run.account import Row, account
from support.settled import FAILED, FINISHED, Ended, problems

EXPECTED = {"good": FINISHED, "bad": FAILED}


def record(client: Redis, job: str, status: str, *results: str, registry: str = "") -> None:
    """What Redis holds of a job that has ended."""
    client.hset(f"rq:job:{job}", "status", status)
    for kind in results:
        client.xadd(f"rq:results:{job}", {"type": kind})
    client.zadd(f"rq:{registry or status}:default", {job: 1})


def figures(client: Redis, begun: dict[str, int], expected: dict[str, Ended] = EXPECTED) -> tuple[int, int, int]:
    """Lost, recorded twice, stuck."""
    row = Row("test")
    account(row, client, expected, dict.fromkeys(expected, 1), begun)
    assert row.is_clean == (not row.details)
    return row.lost, row.twice, row.stuck


def test_all_is_well(connection: Redis) -> None:
    record(connection, "good", "finished", "1")
    record(connection, "bad", "failed", "2")
    assert figures(connection, {"good": 1, "bad": 2}) == (0, 0, 0)


@pytest.mark.parametrize(
    ("status", "results", "begun", "found"),
    [
        ("finished", ("1", "1"), 2, (0, 1, 0)),
        ("finished", ("2", "1"), 2, (0, 1, 0)),
        ("finished", ("1",), 0, (1, 0, 0)),
        ("finished", (), 1, (1, 0, 0)),
        ("failed", ("2",), 1, (1, 0, 0)),
        ("queued", (), 0, (0, 0, 1)),
        ("deferred", (), 0, (0, 0, 1)),
        ("ready_to_enqueue", (), 0, (0, 0, 1)),
    ],
)
def test_one_job_is_wrong(
    connection: Redis, status: str, results: tuple[str, ...], begun: int, found: tuple[int, int, int]
) -> None:
    record(connection, "bad", "failed", "2")
    record(connection, "good", status, *results)
    assert figures(connection, {"good": begun, "bad": 1}) == found


def test_a_job_is_gone(connection: Redis) -> None:
    record(connection, "bad", "failed", "2")
    assert figures(connection, {"good": 1, "bad": 1}) == (1, 0, 0)


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("RPUSH", "good"), "rq:queue:default"),
        (("ZADD", "1", "good:0123"), "rq:wip:default"),
        (("ZADD", "1", "good"), "rq:ready:default"),
        (("ZADD", "1", "good"), "rq:scheduled:default"),
        (("ZADD", "1", "good"), "rq:deferred:default"),
        (("ZADD", "1", "good"), "rq:rl:one:allowed"),
        (("ZADD", "1", "good"), "rq:rl:one:rate_limited"),
        (("HSET", "job_id", "good"), "rq:execution:good:0123"),
        (("ZADD", "1", "0123"), "rq:executions:good"),
        (("SADD", "good:0123"), "rq:worker:one:executions"),
        (("HSET", "one", "default\ngood:0123"), "rqstack:running:here"),
        (("RPUSH", "good"), "rqstack:claim:one:rq:queue:default"),
        (("HSET", "count", "1"), "rqstack:crashes:good"),
        (("SET", "good"), "rqstack:something-new"),
        (("HSET", "status", "queued"), "rq:job:unknown"),
        (("XADD", "*", "type", "1"), "rq:results:unknown"),
    ],
)
def test_something_is_left(connection: Any, command: tuple[str, ...], key: str) -> None:
    record(connection, "good", "finished", "1")
    record(connection, "bad", "failed", "2")
    assert problems(connection, EXPECTED) == []
    connection.execute_command(command[0], key, *command[1:])
    assert len(problems(connection, EXPECTED)) == 1
    lost, twice, stuck = figures(connection, {"good": 1, "bad": 1})
    assert (lost, twice) == (0, 0)
    assert stuck
