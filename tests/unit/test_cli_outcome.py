"""Why a job failed, from its traceback; and how times are shown."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqstack.cli.outcome import reason_of
from rqstack.cli.output import duration
from rqstack.cli.readiness import heartbeat_time


class Sorry(Exception):
    """An error of a user's own."""


def trace(error: BaseException) -> str:
    try:
        raise error
    except BaseException:
        return traceback.format_exc()


# Words whose first line is not indented: an indented one looks like a frame of the traceback.
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40).map(str.strip)


@given(words, st.lists(words, max_size=3))
def test_the_first_line_of_the_words_is_the_reason(first: str, more: list[str]) -> None:
    reason = reason_of(trace(Sorry("\n".join([first, *more]))))
    assert reason == (f"Sorry: {first}" if first else "Sorry")


@given(st.text())
def test_any_text_gives_at_most_one_line(text: str) -> None:
    assert len(reason_of(text).splitlines()) <= 1


def test_the_last_of_a_chain() -> None:
    try:
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise Sorry("outer: why") from error
    except Sorry:
        assert reason_of(traceback.format_exc()) == "Sorry: outer: why"


def test_a_syntax_error() -> None:
    try:
        compile("a b", "x.py", "exec")
    except SyntaxError:
        assert reason_of(traceback.format_exc()).startswith("SyntaxError: invalid syntax")


def test_what_rq_writes_without_a_traceback() -> None:
    line = "Moved to FailedJobRegistry, due to AbandonedJobError, at 2026-01-01"
    assert reason_of(line) == line
    assert reason_of("") == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_heartbeats_as_rq_writes_them() -> None:
    assert heartbeat_time("2026-01-02T03:04:05.500000Z") == 1767323045.5
    assert heartbeat_time("2026-01-02T03:04:05Z") == 1767323045
    assert heartbeat_time("1767323045.5") == 1767323045.5
    assert heartbeat_time("") == heartbeat_time("soon") == 0
