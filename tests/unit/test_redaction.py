"""Passwords in URLs, and control characters: neither is shown."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError
from rich.pretty import pretty_repr

from rqstack.backends.redis import redis_url
from rqstack.errors import BackendError
from rqstack.processes.printable import printable
from rqstack.settings import Settings, StackSettings
from rqstack.settings.redaction import safe_repr, safe_url
from rqstack.transport.client import explain

HIDING = [
    "redis://:sesame@h:6379/0",
    "redis://me:sesame@h:6379/0",
    "rediss://me:ses@me/sesame@h:6379/0",
    "redis://h:6379/0?password=sesame",
    "redis://h:6379/0?db=1&password=ses@me:sesame&x=1",
    "redis://h:6379/0?PASSWORD=sesame",
    "unix:///run/redis.sock?password=sesame",
    "redis+cluster://me:sesame@a:1,b:2?password=sesame",
    "me:sesame@h:6379:0",
    "rediss://h/0?ssl_password=sesame",
    "postgresql://me:sesame@h/name",
]


@pytest.mark.parametrize("url", HIDING)
def test_no_password_of_a_url_is_shown(url: str) -> None:
    assert "sesame" not in safe_url(url)
    assert "***" in safe_url(url)
    assert "sesame" not in str(explain(ConnectionError("refused"), url))


def test_a_password_that_looks_like_a_url_is_not_shown() -> None:
    assert safe_url("redis://me:sesame://x@h:6379/0") == "redis://me:***@h:6379/0"


@pytest.mark.parametrize("url", [*HIDING, "redis://sesame@h", "redis://me:ses'ame@h", "redis:me:sesame\n@h"])
def test_a_wrong_value_is_named_without_its_password(url: str) -> None:
    for value in (url, (url, "other"), [url]):
        shown = safe_repr(value)
        assert not any(part in shown for part in ("ses", "'ame"))
        assert "***" in shown


@pytest.mark.parametrize("value", ["plain", 3, None, 1.5, "redis://h/0"])
def test_other_wrong_values_are_shown_as_they_are(value: object) -> None:
    assert safe_repr(value) == repr(value)


@pytest.mark.parametrize("url", ["redis://h:6379/0", "redis://me@h/0", "h:6379:0", "unix:///run/x.sock?db=1", ""])
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert safe_url(url) == url


def test_the_host_stays_readable() -> None:
    assert safe_url("redis://me:sesame@host:6379/0?db=1") == "redis://me:***@host:6379/0?db=1"


@given(st.text())
def test_any_text_can_be_shown(text: str) -> None:
    assert isinstance(safe_url(text), str)


@pytest.mark.parametrize("url", [url for url in HIDING if url.startswith(("redis://h", "redis://me", "unix"))])
def test_settings_show_no_password(url: str) -> None:
    settings = Settings(
        redis_url=url, queue_connection=url, redis_password="sesame", database_url="postgresql://me:sesame@h/n"
    )
    for text in (repr(settings), str(settings), f"{settings}", pretty_repr(settings)):
        assert "sesame" not in text
        assert "***" in text
    assert "sesame" not in repr(StackSettings(dashboard_password="sesame"))


@pytest.mark.parametrize("connection", ["me:sesame@h:6379:0", "ftp://me:sesame@h", "amqp://h?password=sesame"])
def test_a_wrong_queue_connection_is_named_without_its_password(connection: str) -> None:
    with pytest.raises(BackendError) as caught:
        redis_url(connection)
    assert "QUEUE_CONNECTION" in str(caught.value)
    assert "sesame" not in str(caught.value)


@given(st.text(st.characters()))
def test_control_characters_are_escaped(text: str) -> None:
    shown = printable(text)
    assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"]
    if "\\" not in text:
        # As JSON does: nothing is lost.
        quoted = shown.replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        assert json.loads(f'"{quoted}"') == text


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x9b2J", "a\rb", "\u202eabc", "\u2028", "\x7f", "\udc80"])
def test_what_a_terminal_would_act_on_is_escaped(text: str) -> None:
    assert printable(text).isprintable()


@pytest.mark.parametrize("text", ["plain", "tab\tand\nline", "äöü 日本 🙂", "👩‍💻"])
def test_other_text_stays(text: str) -> None:
    assert printable(text) == text
