"""What a job's description shows: the names of its arguments, and never one that the task says is secret."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from rq import Queue as RqQueue

from rqstack import task
from rqstack.enqueue import Queue, get_queue
from rqstack.errors import InvalidJob
from rqstack.registry.registry import registry
from rqstack.settings import get_settings
from support.processes import rqstack_command

CARD = "4111-1111-1111-1111"


@pytest.fixture(autouse=True)
def tasks(redis_url: str) -> Iterator[None]:
    assert redis_url
    get_settings.cache_clear()
    yield
    registry.forget(__name__)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_SHOW_ARGUMENTS", "1")
    get_settings.cache_clear()


def charge(card: str, amount: int = 1, *more: int, note: str = "", **options: Any) -> None:
    """Charge a card."""


def declare(**options: Any) -> Any:
    return task(queue="default", **options)(charge)


def described(connection: Redis, job: Any) -> str:
    value = connection.hget(job.key, "description")
    assert isinstance(value, bytes)
    return value.decode()


def every_way(given: Any, connection: Redis) -> dict[str, str]:
    """The description of a call, enqueued in each way that there is."""
    jobs = {
        "delay": given.delay(CARD, 5, note="n"),
        "enqueue": given.enqueue([CARD, 5], {"note": "n"}, retries=1),
        "later": given.schedule(CARD, 5, note="n", in_=60),
        "many": given.enqueue_many([given.call(CARD, 5, note="n")])[0],
        "repeat": given.enqueue([CARD, 5], {"note": "n"}, depends_on=given.delay("x")),
        "queue": get_queue("default").enqueue(given.name, CARD, 5, note="n"),
        "pipeline": None,
    }
    with connection.pipeline() as pipeline:
        queue = Queue("default", connection=connection)
        jobs["pipeline"] = queue.enqueue(given.name, CARD, 5, note="n", pipeline=pipeline)
        pipeline.execute()
    return {way: described(connection, job) for way, job in jobs.items()}


def test_names_are_shown_and_no_values(connection: Redis) -> None:
    given = declare()
    found = every_way(given, connection)
    assert set(found.values()) == {f"{given.name}(card, amount, note)"}
    assert (
        described(connection, given.delay(CARD, 1, 2, 3, other=4)) == f"{given.name}(card, amount, more, more, other)"
    )
    # Of a function that this process does not know, no names are known.
    unknown = get_queue("default").enqueue("away.tasks.charge", CARD, note="n")
    assert described(connection, unknown) == "away.tasks.charge(…, note)"
    assert described(connection, given.enqueue([CARD], description="a payment")) == "a payment"


@pytest.mark.usefixtures("shown")
def test_values_are_shown_on_request_as_rq_does(connection: Redis) -> None:
    given = declare()
    plain = RqQueue("default", connection=connection).enqueue(given.name, CARD, 5, note="n")
    assert set(every_way(given, connection).values()) == {described(connection, plain)}
    long = given.delay("x" * 500)
    assert len(described(connection, long)) < 200


@pytest.mark.usefixtures("shown")
def test_secret_arguments_are_hidden_in_any_case(connection: Redis) -> None:
    given = declare(secret=("card", "note"))
    assert set(every_way(given, connection).values()) == {f"{given.name}(***, 5, note=***)"}
    assert described(connection, given.delay(card=CARD, other=2)) == f"{given.name}(card=***, other=2)"


def test_what_goes_wrong_shows_no_secret_argument() -> None:
    given = declare(secret=["card"])

    class Card:
        def __reduce__(self) -> str:
            raise TypeError(f"no pickle of {CARD}")

    for call in (
        lambda: given.delay(Card()),
        lambda: given.enqueue_many([CARD]),
        lambda: given.delay(CARD, CARD, wrong=1, card=CARD),
    ):
        with pytest.raises(InvalidJob) as caught:
            call()
        assert CARD not in str(caught.value)
    assert CARD not in repr(given.call(CARD))


@pytest.mark.parametrize(("secret", "said"), [(("carf",), "carf is no argument"), ("card", "should be the names")])
def test_a_wrong_name_is_refused_where_the_task_is_declared(secret: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"charge: secret=.*{said}"):
        declare(secret=secret)


def test_the_command_line_shows_no_control_characters(connection: Redis) -> None:
    name = "\x1b]0;owned\x07\x9b2J"
    connection.sadd("rq:queues", f"rq:queue:{name}")
    connection.lpush(f"rq:queue:{name}", "x")
    connection.hset("rq:job:evil", mapping={"status": f"\x1b[2J{name}"})
    for command in (["info"], ["info", "--json"], ["result", "evil"], ["wait", "evil", "--timeout", "1"]):
        done = subprocess.run(rqstack_command(*command), capture_output=True, env=os.environ, check=False)
        printed = (done.stdout + done.stderr).decode()
        assert not [char for char in printed if char < " " and char != "\n"], (command, printed)
        assert "\x9b" not in printed
