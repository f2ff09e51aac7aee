"""What `@task` takes, what it refuses, and what it makes of its options."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqstack import Exponential, retry_with_backoff, task
from rqstack.registry.rate import UNITS, Rate, parse
from rqstack.registry.registry import registry
from rqstack.registry.retries import intervals, make_retry


def plain(x: int, y: int = 2) -> int:
    """Add."""
    return x + y


async def waits(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


class Mailer:
    name = "m"

    def send(self, to: str) -> str:
        return f"{self.name} {to}"


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    yield
    registry.forget(__name__)


def test_a_task_is_called_as_its_function_is() -> None:
    declared = task(plain)
    assert declared(1) == 3
    assert declared.name == f"{__name__}.plain"
    assert (declared.__name__, declared.__doc__) == ("plain", "Add.")
    assert registry.get(declared.name) is declared
    assert asyncio.run(task(waits)(1)) == 2


def test_a_method_gets_its_object() -> None:
    Mailer.posts = task(Mailer.send)  # type: ignore[attr-defined]
    assert Mailer().posts("ann") == "m ann"  # type: ignore[attr-defined]
    assert Mailer.posts(Mailer(), "bob") == "m bob"  # type: ignore[attr-defined]


def test_a_static_method_is_a_task_on_either_side_of_its_decorator() -> None:
    below, above = task(staticmethod(plain)), staticmethod(task(plain))
    assert isinstance(below, staticmethod)
    assert below.__func__.name == above.__func__.name == f"{__name__}.plain"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"queue": ""}, "queue=''"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"retries": True}, "retries=True"),
        ({"retries": 2, "backoff": -1}, "-1"),
        ({"retries": 2, "backoff": [1, -2]}, "-2"),
        ({"retries": 2, "backoff": []}, "backoff=[]"),
        ({"backoff": "linear"}, "backoff='linear'"),
        ({"backoff": float("nan")}, "nan"),
        ({"retry_on": ()}, "retry_on=()"),
        ({"retry_on": ["OSError"]}, "'OSError'"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "5 min"}, "timeout='5 min'"),
        ({"result_ttl": -2}, "result_ttl=-2"),
        ({"failure_ttl": 1.5}, "failure_ttl=1.5"),
        ({"ttl": 0}, "ttl=0"),
        ({"misfire_grace": -1}, "misfire_grace=-1"),
        ({"unique": "yes"}, "unique='yes'"),
        ({"meta": "x"}, "meta='x'"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": True}, "concurrency=True"),
        ({"concurrency": "3"}, "concurrency='3'"),
        ({"concurrency_key": "bank"}, "concurrency_key='bank': needs concurrency="),
        ({"concurrency": 1, "concurrency_key": ""}, "concurrency_key=''"),
        ({"concurrency": 1, "concurrency_key": 5}, "concurrency_key=5"),
        ({"concurrency": 1, "concurrency_key": "x:rate_limited"}, "concurrency_key='x:rate_limited'"),
        ({"rate_limit": "5/fortnight"}, "5/fortnight"),
        ({"rate_limit": "0/second"}, "0/second"),
        ({"rate_limit": 5}, "rate_limit=5"),
        ({"cron": "61 * * * *"}, "61 * * * *"),
        ({"cron": "every day"}, "every day"),
        ({"timezone": "Mars/Olympus"}, "Mars/Olympus"),
    ],
)
def test_a_wrong_option_is_refused_where_it_is_declared(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError) as caught:
        task(**options)(plain)
    assert named in str(caught.value)
    assert f"{__name__}.plain" in str(caught.value)
    assert f"{__name__}.plain" not in registry


def test_what_a_worker_could_not_find_again_is_refused() -> None:
    def inner() -> None: ...

    for function in (inner, lambda: None):
        with pytest.raises(ValueError, match="a worker cannot import it"):
            task(function)
    for thing in (Mailer, 5, classmethod(plain)):
        with pytest.raises(ValueError, match="a task is a function"):
            task(thing)  # type: ignore[call-overload]


def test_two_tasks_of_one_name_are_refused_and_a_second_execution_is_not(tmp_path: Path) -> None:
    source = "from rqstack import task\n@task\ndef f(): return {}\n"
    first, second = tmp_path / "a.py", tmp_path / "b.py"

    def execute(path: Path, text: str) -> None:
        exec(compile(text, str(path), "exec"), {"__name__": __name__})

    execute(first, source.format(1))
    execute(first, source.format(2))
    assert registry.get(f"{__name__}.f")() == 2
    with pytest.raises(ValueError, match=rf"two tasks are named .*\.f: {first}:2 and {second}:2"):
        execute(second, source.format(3))
    with pytest.raises(ValueError, match="two tasks are named"):
        execute(first, source.format(4) + "@task\ndef f(): return 5\n")


COUNTS = st.integers(1, 999_999_999)


@given(COUNTS, st.integers(1, 999_999), st.sampled_from(sorted(UNITS)), st.sampled_from(["/", " per ", " / "]))
def test_every_rate_reads_back_as_what_it_says(count: int, number: int, unit: str, sign: str) -> None:
    rate = parse(f"{count}{sign}{number} {unit}s")
    assert rate == Rate(count, number * UNITS[unit])
    assert parse(str(rate)) == rate


@given(st.text())
def test_other_text_is_a_rate_or_a_value_error(text: str) -> None:
    refused = ""
    try:
        rate = parse(text)
    except ValueError as error:
        refused = str(error)
    assert repr(text) in refused if refused else rate.count > 0 < rate.seconds


@given(
    st.integers(1, 40),
    st.fractions(Fraction(1, 10), 100),
    st.fractions(1, 5),
    st.integers(1, 100_000),
)
def test_exponential_waits_are_true_powers_up_to_the_cap(
    retries: int, base: Fraction, factor: Fraction, cap: int
) -> None:
    waits = intervals(retries, Exponential(base=float(base), factor=float(factor), cap=cap))
    assert len(waits) == retries
    for retry, wait in enumerate(waits):
        assert wait == pytest.approx(min(float(base) * float(factor) ** retry, cap))


@given(st.integers(1, 40), st.one_of(st.integers(0, 1000), st.lists(st.integers(0, 1000), min_size=1)))
def test_rq_reads_each_interval_at_its_place(retries: int, backoff: int | list[int]) -> None:
    from rq.job import Job

    retry = make_retry(retries, backoff)
    assert retry is not None
    wanted = [backoff] * retries if isinstance(backoff, int) else (backoff + backoff[-1:] * retries)[:retries]
    job = Job.__new__(Job)
    job.retry_intervals = retry.intervals
    for done, wait in enumerate(wanted):
        job.retries_left = retries - done
        assert job.get_retry_interval() == wait


def test_jitter_stays_in_the_upper_half_and_is_drawn_for_each_job() -> None:
    backoff = Exponential(base=1000, jitter=True)
    drawn = {tuple(intervals(3, backoff)) for _ in range(20)}
    assert len(drawn) == 20
    assert all(500 <= a <= 1000 and 1000 <= b <= 2000 and 1800 <= c <= 3600 for a, b, c in drawn)


@pytest.mark.parametrize("given_", [{"base": 0}, {"factor": 0.5}, {"cap": 0}, {"cap": float("inf")}])
def test_a_wrong_backoff_is_refused(given_: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(given_))):
        Exponential(**given_)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_retry_with_backoff_calls_again_after_the_chosen_errors_only(asynchronous: bool) -> None:
    calls: list[int] = []

    def flaky(fail: int, error: type[Exception]) -> str:
        calls.append(1)
        if len(calls) <= fail:
            raise error
        return "done"

    async def flaky_async(fail: int, error: type[Exception]) -> str:
        return flaky(fail, error)

    decorate = retry_with_backoff(retries=2, backoff=0, retry_on=OSError)
    function: Callable[..., Any] = decorate(flaky_async) if asynchronous else decorate(flaky)

    def call(*args: Any) -> Any:
        calls.clear()
        return asyncio.run(function(*args)) if asynchronous else function(*args)

    assert (call(2, OSError), len(calls)) == ("done", 3)
    with pytest.raises(OSError):
        call(3, OSError)
    assert len(calls) == 3
    with pytest.raises(KeyError):
        call(1, KeyError)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="retries=-1"):
        retry_with_backoff(retries=-1)


def test_an_editor_sees_the_tasks_own_signature(tmp_path: Path) -> None:
    source = tmp_path / "typed.py"
    source.write_text(
        textwrap.dedent(
            """
            from rqstack import queue_command, task

            @task
            def bare(x: int, y: str = "") -> bytes: ...

            @task(queue="q", retries=3)
            def optioned(x: int) -> float: ...

            @queue_command
            def command(x: int) -> float: ...

            reveal_type(bare(1))
            reveal_type(bare.delay)
            reveal_type(optioned(1))
            reveal_type(optioned.delay)
            reveal_type(command.call_now)
            bare.delay("wrong")
            optioned.delay()
            """
        )
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "", "--cache-dir", str(tmp_path / "cache"), str(source)]
    answer = subprocess.run(
        [*command, "--follow-imports", "silent", "--ignore-missing-imports", "--disable-error-code", "empty-body"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    answer = answer.replace("builtins.", "")
    notes = [line.partition(' is "')[2].partition(" ->")[0] for line in answer.splitlines() if "note: Revealed" in line]
    of_bare, of_optioned = "def (x: int, y: str =)", "def (x: int)"
    assert [note.rstrip('"') for note in notes] == ["bytes", of_bare, "float", of_optioned, of_optioned], answer
    errors = [line for line in answer.splitlines() if "error:" in line]
    assert len(errors) == 2, answer
    assert 'Argument 1 to "delay" of "Task" has incompatible type "str"' in errors[0]
    assert "Missing positional argument" in errors[1] or "Too few arguments" in errors[1]
