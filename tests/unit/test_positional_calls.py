"""The short check of a call's arguments says what the full one says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from rqstack import Task
from rqstack.registry.options import TaskOptions


@pytest.mark.parametrize(
    "function",
    [
        lambda: 0,
        lambda a: 0,
        lambda a, b=1: 0,
        lambda a, /, b, c=2: 0,
        lambda *a: 0,
        lambda a, *b: 0,
        lambda a, *, b: 0,
        lambda a, *, b=1: 0,
        lambda a=1, **b: 0,
        lambda *a, b: 0,
    ],
    ids=lambda function: str(inspect.signature(function)),
)
def test_a_number_of_positional_arguments_is_a_call_or_not(function: Callable[..., Any]) -> None:
    function.__qualname__ = f"function_{id(function)}"
    task = Task(function, TaskOptions())
    for number in range(6):
        try:
            inspect.signature(function).bind(*range(number))
            fits = True
        except TypeError:
            fits = False
        assert (number in task.positional) is fits


@pytest.mark.parametrize(
    "options",
    [
        {"retries": 1},
        {"timeout": 5},
        {"result_ttl": 0},
        {"failure_ttl": 0},
        {"ttl": 1},
        {"unique": True},
        {"concurrency": 3},
        {"at_front": True},
        {"description": "x"},
        {"meta": {"a": 1}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_of_a_job_takes_the_long_way(options: dict[str, Any]) -> None:
    def function() -> None: ...

    function.__qualname__ = f"function_{id(options)}"
    assert not Task(function, TaskOptions(**options)).is_plain


def test_options_of_the_worker_and_the_schedule_do_not() -> None:
    def function() -> None: ...

    function.__qualname__ = "function_scheduled"
    assert Task(function, TaskOptions(queue="other", cron="0 3 * * *", misfire_grace=5)).is_plain
