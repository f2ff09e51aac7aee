"""Signed payloads: what is not ours is never unpickled."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rq.serializers import DefaultSerializer, Serializer, resolve_serializer

from rqstack.errors import PayloadRejected
from rqstack.security import Default, get_serializer, signing
from rqstack.security.signing import MARKER, PlainPickle, SignedPickle
from rqstack.settings import get_settings

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)
OURS = SignedPickle((b"ours",))


class Evil:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@given(VALUES)
def test_a_value_comes_back_and_plain_rq_reads_it_too(value: Any) -> None:
    data = OURS.dumps(value)
    assert OURS.loads(data) == value
    assert DefaultSerializer.loads(data) == value


@given(VALUES, st.data())
def test_one_changed_bit_is_refused(value: Any, data: st.DataObject) -> None:
    payload = bytearray(OURS.dumps(value))
    place = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[place // 8] ^= 1 << place % 8
    with pytest.raises(PayloadRejected):
        OURS.loads(bytes(payload))


@given(VALUES, st.data())
def test_a_cut_or_longer_payload_is_refused(value: Any, data: st.DataObject) -> None:
    payload = OURS.dumps(value)
    cut = data.draw(st.integers(0, len(payload) - 1))
    for wrong in (payload[:cut], payload[cut + 1 :], payload + b"\0"):
        with pytest.raises(PayloadRejected):
            OURS.loads(wrong)


@pytest.mark.parametrize(
    ("reason", "forge"),
    [
        ("unsigned", lambda evil: pickle.dumps(evil)),
        ("unsigned", lambda evil: b""),
        ("bad_signature", lambda evil: SignedPickle((b"theirs",)).dumps(evil)),
        ("bad_signature", lambda evil: pickle.dumps(evil) + MARKER + bytes(32)),
        ("bad_signature", lambda evil: pickle.dumps(evil) + OURS.dumps("good")[-36:]),
    ],
)
def test_a_forged_payload_is_not_unpickled(tmp_path: Path, reason: str, forge: Any) -> None:
    payload = forge(Evil(tmp_path / "made"))
    with pytest.raises(PayloadRejected) as caught:
        OURS.loads(payload)
    assert caught.value.reason == reason
    assert "not read" in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_the_payload_that_is_refused_does_create_a_file_where_nothing_checks_it(tmp_path: Path) -> None:
    PlainPickle().loads(pickle.dumps(Evil(tmp_path / "made")))
    assert (tmp_path / "made").exists()


def test_keys_are_changed_by_adding_the_new_one_first() -> None:
    old, both, new = SignedPickle((b"old",)), SignedPickle((b"new", b"old")), SignedPickle((b"new",))
    assert both.loads(old.dumps(1)) == 1
    assert new.loads(both.dumps(2)) == 2
    with pytest.raises(PayloadRejected):
        new.loads(old.dumps(3))
    with pytest.raises(PayloadRejected):
        old.loads(both.dumps(4))


def test_unsigned_payloads_of_plain_rq_are_read_when_unregistered_tasks_are_allowed() -> None:
    opened = SignedPickle((b"ours",), allow_unsigned=True)
    assert opened.loads(pickle.dumps(1)) == 1
    with pytest.raises(PayloadRejected, match="another key"):
        opened.loads(SignedPickle((b"theirs",)).dumps(1))


def use(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Any:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return get_serializer()


def test_the_settings_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(use(monkeypatch)) is PlainPickle
    signed = use(monkeypatch, RQSTACK_SECRET_KEY="b, a")
    assert signed is get_serializer()
    assert signed.loads(SignedPickle((b"a",)).dumps(1)) == 1
    assert SignedPickle((b"b",)).loads(signed.dumps(2)) == 2
    with pytest.raises(PayloadRejected):
        signed.loads(pickle.dumps(3))
    assert use(monkeypatch, RQSTACK_ALLOW_UNREGISTERED="1").loads(pickle.dumps(3)) == 3
    assert use(monkeypatch, RQSTACK_SERIALIZER="json").dumps({"a": 1}) == b'{"a": 1}'


def test_rq_finds_the_serializer_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = use(monkeypatch, RQSTACK_SECRET_KEY="a")
    path = f"{signed.__module__}.{signed.__qualname__}"
    found = resolve_serializer(path)
    assert found is Default
    assert isinstance(signed, Serializer)
    assert found.loads(signed.dumps(5)) == 5


def test_no_key_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(signing.PlainPickle, "_warned", False)
    plain = use(monkeypatch)
    with caplog.at_level(logging.WARNING, "rqstack.security"):
        assert plain.loads(plain.dumps(1)) == 1
    assert [record.message.partition(":")[0] for record in caplog.records] == ["RQSTACK_SECRET_KEY is not set"]
