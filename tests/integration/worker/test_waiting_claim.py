"""An idle horse's wait: it claims the job in the same trip to Redis."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Timer
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import NoScriptError, ResponseError, TimeoutError
from rq import Queue

from rqstack.transport import keys
from rqstack.transport.raw import RawConnection
from rqstack.transport.scripts import Function, Script
from rqstack.worker.horse.waiting_claim import WaitingClaim
from rqstack.worker.scripts import CLAIM
from rqstack.worker.settle import call_id_of, claim_arguments
from support.redis_server import RedisServer

CLOCK = Script(
    Function("set_clock(seconds, micros)", "worker/lua/clock.lua"),
    tail="set_clock(tonumber(ARGV[1]), tonumber(ARGV[2])) return {ARGV[4], ARGV[5]}",
)


@pytest.fixture
def main(connection: Redis) -> Iterator[RawConnection]:
    connection.zadd(keys.SUPERVISORS, {"s": time.time()})
    channel = RawConnection(connection)
    channel.load(CLAIM)
    yield channel
    channel.close()


@pytest.fixture
def waiting(connection: Redis) -> Iterator[WaitingClaim]:
    claim = WaitingClaim(connection, "w", "rq:queue:waited", 5.0)
    yield claim
    claim.close()


@pytest.fixture
def quiet() -> Iterator[int]:
    ends = os.pipe()
    yield ends[0]
    for end in ends:
        os.close(end)


@pytest.fixture
def queue(connection: Redis) -> Queue:
    return Queue("waited", connection=connection)


def arguments(now: float | None = None, call_id: str = "") -> tuple[Any, ...]:
    fixed_keys = ("rq:worker:w", keys.running("s"), keys.SUPERVISORS)
    return claim_arguments(fixed_keys, ["rq:queue:waited"], ("w", "s"), now, idle=True, call_id=call_id)


def test_a_job_is_claimed_with_the_wait(
    connection: Redis, main: RawConnection, waiting: WaitingClaim, quiet: int, queue: Queue
) -> None:
    waiting.begin(arguments())
    assert waiting.wait(quiet, 0) is None
    before = datetime.now(UTC)
    queue.enqueue("shop.tasks.give", job_id="j")
    reply = waiting.wait(quiet, 20)
    assert reply is not None
    assert [reply[0], reply[1][1]] == [b"jobs", b"j"]
    assert not waiting.is_waiting
    status, started_at = connection.hmget("rq:job:j", "status", "started_at")
    assert status == b"started"
    assert before <= datetime.fromisoformat(started_at.decode()) <= datetime.now(UTC)
    assert connection.keys("rqstack:claim:*") == []


def test_a_wait_that_is_ended_says_that_there_is_no_job(
    connection: Redis, main: RawConnection, waiting: WaitingClaim
) -> None:
    waiting.begin(arguments())
    assert waiting.end(main) == [b"empty"]
    assert waiting.end(main) is None


def test_a_claim_whose_reply_is_lost_is_found_by_the_same_call(
    connection: Redis, main: RawConnection, waiting: WaitingClaim, queue: Queue
) -> None:
    tail = arguments()
    waiting.begin(tail)
    queue.enqueue("shop.tasks.give", job_id="j")
    waiting.close()
    assert waiting.end(main) is None
    assert main.run(CLAIM, tail)[1][1] == b"j"
    assert connection.llen("rq:queue:waited") == 0


def test_the_script_is_brought_to_a_redis_that_has_lost_it(
    connection: Redis, main: RawConnection, waiting: WaitingClaim, quiet: int, queue: Queue
) -> None:
    tail = arguments()
    connection.script_flush()
    waiting.begin(tail)
    queue.enqueue("shop.tasks.give", job_id="j")
    with pytest.raises(NoScriptError):
        waiting.wait(quiet, 20)
    waiting.close()
    waiting.end(main)
    assert main.run(CLAIM, tail)[1][1] == b"j"


@pytest.mark.parametrize("is_repeated", [True, False], ids=["of this call", "of another call"])
def test_what_a_late_wait_moves_goes_back(
    connection: Redis, main: RawConnection, waiting: WaitingClaim, quiet: int, queue: Queue, is_repeated: bool
) -> None:
    """The worker runs a job already: the wait is of a connection that it had lost, or of a horse that is dead."""
    tail = arguments(time.time())
    queue.enqueue("shop.tasks.give", job_id="runs")
    main.run(CLAIM, tail)
    waiting.begin(arguments(call_id=call_id_of(tail) if is_repeated else ""))
    queue.enqueue("shop.tasks.give", job_id="j")
    reply = waiting.wait(quiet, 20)
    assert reply is not None
    assert reply[0] == (b"jobs" if is_repeated else b"unfinished")
    assert connection.keys("rqstack:claim:*") == []
    assert queue.job_ids == ["j"]
    assert connection.hget("rq:job:j", "status") == b"queued"


@pytest.fixture
def patient(connection: Redis) -> Iterator[WaitingClaim]:
    """A wait that does not end by itself."""
    claim = WaitingClaim(connection, "w", "rq:queue:waited", 3600.0)
    yield claim
    claim.close()


def test_a_wait_that_reaches_redis_after_its_end_is_ended(
    main: RawConnection, patient: WaitingClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is slower than the one that ends it."""
    patient.open()
    send = patient._connection.send
    late = []
    monkeypatch.setattr(patient._connection, "send", lambda *packed: late.append(Timer(0.2, send, packed)))
    patient.begin(arguments())
    late[0].start()
    assert patient.end(main) == [b"empty"]
    late[0].join()


def test_a_wait_that_never_reaches_redis_is_lost(
    main: RawConnection, patient: WaitingClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient.open()
    monkeypatch.setattr(patient._connection, "send", lambda *packed: None)
    patient.begin(arguments())
    with pytest.raises(TimeoutError):
        patient.end(main)


def test_a_wait_is_ended_while_writes_are_paused(own_redis: RedisServer) -> None:
    """Redis keeps both until the pause is over. It would crash if only the wait were kept."""
    with own_redis.client() as client:
        main, claim = RawConnection(client), WaitingClaim(client, "w", "rq:queue:waited", 3600.0)
        main.load(CLAIM)
        claim.open()
        client.execute_command("CLIENT", "PAUSE", 1_000, "WRITE")
        claim.begin(arguments())
        assert claim.end(main) == [b"empty"]
        assert client.ping()
        claim.close()
        main.close()


def test_a_connection_that_has_no_id_is_not_used(
    main: RawConnection, patient: WaitingClaim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could end its waits."""

    def refuse(*arguments: Any) -> None:
        raise ResponseError("BUSY Redis is busy running a script.")

    with monkeypatch.context() as patch:
        patch.setattr(patient._connection, "call", refuse)
        with pytest.raises(ResponseError):
            patient.open()
    patient.begin(arguments())
    assert patient.end(main) == [b"empty"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)))
def test_the_clock_writes_times_as_rq_does(connection: Redis, moment: datetime) -> None:
    seconds = int(datetime.timestamp(moment.replace(microsecond=0)))
    iso, number = CLOCK(connection, [], [seconds, moment.microsecond])
    assert iso.decode() == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    assert number.decode() == f"{seconds}.{moment.microsecond:06d}"
