"""Tasks for the command line: values and failures of all kinds."""

from __future__ import annotations

import time

from rqstack import task


class Sorry(Exception):
    """A reason in one sentence."""


class Point:
    """A value of a class that only the project has."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __repr__(self) -> str:
        return f"Point({self.x})"


@task(queue="default")
def echo(*args: object, **kwargs: object) -> list[object]:
    return [*args, kwargs] if kwargs else list(args)


@task(queue="default")
def say(word: object) -> object:
    return word


@task(queue="default")
def point(x: int) -> Point:
    return Point(x)


@task(queue="default")
def fail(words: str) -> None:
    raise Sorry(words)


@task(queue="default")
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
