"""What is read from Redis, where anybody may have written it."""

from __future__ import annotations

import json
import logging
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqstack.errors import PayloadTooLarge
from rqstack.security.bounded import inflate
from rqstack.transport.damaged import LogOnce, name_of, parse_json, parse_names
from rqstack.transport.timestamps import parse


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_a_value_error(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except ValueError:
        return
    assert json.loads(raw) == value or value != value


@pytest.mark.parametrize("raw", [b"[" * 100_000, b'{"a":' * 100_000, b'"' + b"a" * (1 << 20) + b'"'])
def test_json_that_is_too_deep_or_too_long_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="too"):
        parse_json(raw)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=5))
def test_a_list_of_names_is_read(names: list[str]) -> None:
    assert parse_names(json.dumps(names).encode()) == names


@pytest.mark.parametrize(
    "raw", [None, b"", b"{}", b'"ab"', b"[1]", b"[null]", b'["\\ud800"]', b"[[]]", b"\xff", b"nan"]
)
def test_what_is_no_list_of_names_is_refused(raw: bytes | None) -> None:
    with pytest.raises(ValueError):
        parse_names(raw)


@given(st.binary(max_size=2000))
def test_a_name_is_text_of_bounded_length(raw: bytes) -> None:
    name = name_of(raw)
    if name is None:
        assert len(raw) > 1000 or raw.decode(errors="replace").encode() != raw
    else:
        assert name.encode() == raw


@given(st.binary(max_size=3000), st.integers(0, 2000))
def test_no_more_is_inflated_than_is_allowed(data: bytes, most: int) -> None:
    compressed = zlib.compress(data)
    if len(data) <= most and len(compressed) <= most:
        assert inflate(compressed, most) == data
    else:
        with pytest.raises(PayloadTooLarge):
            inflate(compressed, most)


@given(st.binary(max_size=200))
def test_what_is_no_zlib_stream_is_told(data: bytes) -> None:
    try:
        expected = zlib.decompress(data)
    except zlib.error:
        with pytest.raises(zlib.error):
            inflate(data, 1000)
    else:
        assert inflate(data, 1000) == expected


def test_a_bomb_takes_no_memory() -> None:
    import tracemalloc

    bomb = zlib.compress(b"\0" * (64 << 20), 9)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match="RQSTACK_MAX_PAYLOAD"):
            inflate(bomb, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text: str) -> None:
    assert parse(text) is None or isinstance(parse(text), float)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59"])
def test_times_at_the_ends_of_the_calendar_raise_nothing(text: str) -> None:
    assert isinstance(parse(text), float | None)


def test_an_error_is_logged_once_and_acts_on_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    damage = LogOnce(logging.getLogger("test"), most=2)
    for _ in range(3):
        damage.error("key", "damaged: %s", "\x1b]0;title\x07")
    assert caplog.messages == ["damaged: \\u001b]0;title\\u0007"]
    damage.forget("key")
    damage.error("key", "damaged: %s", "\x1b]0;title\x07")
    assert len(caplog.messages) == 2
