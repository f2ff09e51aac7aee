"""Signed payloads: what is not ours is never unpickled."""

from __future__ import annotations

import hmac
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rq.serializers import DefaultSerializer, Serializer, resolve_serializer

from rqstack.errors import PayloadRejected, SettingsError
from rqstack.security import Default, for_jobs, for_purpose, get_job_serializer, get_serializer, get_signer, signing
from rqstack.security.keyring import PURPOSES, UNPURPOSED, KeyRing, Purpose
from rqstack.security.signing import MARKERS, PlainPickle, SignedPickle
from rqstack.settings import Settings, get_settings

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


def signed_by(*keys: bytes, purpose: Purpose = "arguments", **options: Any) -> SignedPickle:
    return SignedPickle(KeyRing(keys), purpose, **options)


def signed_by_0_1(key: bytes, value: object) -> bytes:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return data + b"rqs1" + hmac.new(key, data, "sha256").digest()


OURS = signed_by(b"ours")


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
        ("bad_signature", lambda evil: signed_by(b"theirs").dumps(evil)),
        ("bad_signature", lambda evil: pickle.dumps(evil) + MARKERS["arguments"] + bytes(32)),
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
    old, both, new = signed_by(b"old"), signed_by(b"new", b"old"), signed_by(b"new")
    assert both.loads(old.dumps(1)) == 1
    assert new.loads(both.dumps(2)) == 2
    with pytest.raises(PayloadRejected):
        new.loads(old.dumps(3))
    with pytest.raises(PayloadRejected):
        old.loads(both.dumps(4))


def test_unsigned_payloads_of_plain_rq_are_read_when_unregistered_tasks_are_allowed() -> None:
    opened = signed_by(b"ours", allow_unsigned=True)
    assert opened.loads(pickle.dumps(1)) == 1
    with pytest.raises(PayloadRejected, match="another key"):
        opened.loads(signed_by(b"theirs").dumps(1))


def use(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Any:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return get_serializer()


KEY_A, KEY_B = "a" * 16, "b" * 16


def test_the_settings_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(use(monkeypatch)) is PlainPickle
    signed = for_purpose(use(monkeypatch, RQSTACK_SECRET_KEY=f"{KEY_B}, {KEY_A}"), "arguments")
    assert get_serializer() is get_serializer()
    assert signed.loads(signed_by(KEY_A.encode()).dumps(1)) == 1
    assert signed_by(KEY_B.encode()).loads(signed.dumps(2)) == 2
    with pytest.raises(PayloadRejected):
        signed.loads(pickle.dumps(3))
    assert use(monkeypatch, RQSTACK_ALLOW_UNREGISTERED="1").loads(pickle.dumps(3)) == 3
    assert for_purpose(get_serializer(), "arguments").loads(pickle.dumps(3)) == 3
    assert use(monkeypatch, RQSTACK_SERIALIZER="json").dumps({"a": 1}) == b'{"a": 1}'
    assert for_purpose(get_serializer(), "result").dumps({"a": 1}) == b'{"a": 1}'


def test_unregistered_tasks_open_arguments_and_meta_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = use(monkeypatch, RQSTACK_SECRET_KEY=KEY_A, RQSTACK_ALLOW_UNREGISTERED="1")
    for purpose in ("result", "message"):
        with pytest.raises(PayloadRejected):
            for_purpose(opened, purpose).loads(pickle.dumps(1))
    with pytest.raises(PayloadRejected):  # as the jobs page reads
        get_job_serializer(allow_unsigned=False).loads(pickle.dumps(1))


@pytest.mark.parametrize("written", PURPOSES)
@pytest.mark.parametrize("read", PURPOSES)
def test_a_signature_counts_for_its_purpose_alone(written: Purpose, read: Purpose) -> None:
    ring = KeyRing([b"ours"])
    payload = SignedPickle(ring, written).dumps("value")
    if written == read:
        assert SignedPickle(ring, read).loads(payload) == "value"
        return
    with pytest.raises(PayloadRejected) as caught:
        SignedPickle(ring, read).loads(payload)
    assert caught.value.reason == ("rq_signature" if written == "rq" else "other_purpose")
    # Nor with the marker of the other purpose, which anybody can write.
    with pytest.raises(PayloadRejected, match="another key or other data"):
        SignedPickle(ring, read).loads(payload.replace(MARKERS[written], MARKERS[read]))


def test_a_signature_of_0_1_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = use(monkeypatch, RQSTACK_SECRET_KEY=KEY_A)
    payload = signed_by_0_1(KEY_A.encode(), ["old"])
    for purpose in ("arguments", "result", "meta", "message"):
        assert for_purpose(given, purpose).loads(payload) == ["old"]
    assert get_job_serializer().loads(payload) == given.loads(payload) == ["old"]
    # What is signed now does not count as signed by 0.1.
    new = for_purpose(given, "result").dumps(1)
    with pytest.raises(PayloadRejected, match="another key or other data"):
        given.loads(new.replace(MARKERS["result"], MARKERS[UNPURPOSED]))


def test_rqs_own_classes_sign_for_a_purpose_that_a_setting_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    call = ("shop.tasks.add", None, (1,), {})
    payload = use(monkeypatch, RQSTACK_SECRET_KEY=KEY_A).dumps(call)
    for reader in (for_purpose(get_serializer(), "arguments"), get_job_serializer(), get_serializer()):
        with pytest.raises(PayloadRejected, match="RQSTACK_ACCEPT_RQ_SIGNATURES"):
            reader.loads(payload)
    use(monkeypatch, RQSTACK_ACCEPT_RQ_SIGNATURES="1")
    for reader in (for_purpose(get_serializer(), "arguments"), get_job_serializer(), get_serializer()):
        assert reader.loads(payload) == call
    with pytest.raises(PayloadRejected):
        for_purpose(get_serializer(), "message").loads(payload)


def test_rqs_worker_takes_no_result_for_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RQSTACK_SECRET_KEY=KEY_A, RQSTACK_ACCEPT_RQ_SIGNATURES="1")
    result = for_purpose(Default, "result").dumps(("os.system", None, ("id",), {}))
    with pytest.raises(PayloadRejected, match="another purpose"):
        Default.loads(result)


def test_a_job_object_reads_all_and_signs_nothing_as_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = for_jobs(use(monkeypatch, RQSTACK_SECRET_KEY=KEY_A))
    for purpose in ("arguments", "result", "meta"):
        assert jobs.loads(for_purpose(jobs, purpose).dumps(purpose)) == purpose
    assert for_purpose(jobs, "meta").loads(jobs.dumps({"a": 1})) == {"a": 1}
    for value in (("os.system", None, ("id",), {}), {"func": 1}, [1, 2, 3, {}], None):
        with pytest.raises(PayloadRejected):
            for_purpose(jobs, "arguments").loads(jobs.dumps(value))


def test_a_signer_signs_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    assert get_signer("webhook") is None
    use(monkeypatch, RQSTACK_SECRET_KEY=KEY_A)
    signer, other = get_signer("webhook"), get_signer("message")
    assert signer
    assert other
    signature = signer.signature(b"data")
    assert signer.is_valid(b"data", signature)
    assert not signer.is_valid(b"Data", signature)
    assert not other.is_valid(b"data", signature)


@pytest.mark.parametrize("keys", [",", " , ", "short", f"{KEY_A},", f"{KEY_A},short", "k" * 15])
def test_short_and_empty_keys_are_refused(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    with pytest.raises(SettingsError, match=r"RQSTACK_SECRET_KEY: .* at least 16 random characters") as caught:
        use(monkeypatch, RQSTACK_SECRET_KEY=keys)
    said = str(caught.value).partition(" Set it")[0]
    assert "(hidden)" in said
    assert keys not in said or keys.strip() == ","


def test_an_empty_key_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    with pytest.raises(SettingsError, match=r"RQSTACK_SECRET_KEY_FILE: .*/key is empty"):
        use(monkeypatch, RQSTACK_SECRET_KEY_FILE=str(tmp_path / "key"))


def test_a_new_key_is_learned_from_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY_A)
    reader = for_purpose(use(monkeypatch, RQSTACK_SECRET_KEY_FILE=str(path)), "arguments")
    signer = get_signer("webhook")
    page = get_job_serializer(allow_unsigned=False)  # what the jobs page reads with
    assert signer
    payload = signed_by(KEY_B.encode()).dumps("new")
    with pytest.raises(PayloadRejected):
        reader.loads(payload)
    path.write_text(f"{KEY_B},{KEY_A}")
    assert reader.loads(payload) == "new"
    # It signs by the new one from now on, also for other purposes, and still reads what the old one has signed.
    assert signed_by(KEY_B.encode()).loads(reader.dumps(1)) == 1
    assert signer.signature(b"data") == KeyedAs(KEY_B).signature(b"data")
    assert reader.loads(signed_by(KEY_A.encode()).dumps("old")) == "old"
    assert page.loads(signed_by(KEY_B.encode(), purpose="result").dumps("shown")) == "shown"
    path.write_text(KEY_B)
    assert reader.loads(signed_by(KEY_A.encode()).dumps("old")) == "old"
    path.write_text("c" * 16)  # a wholly new one
    assert reader.loads(signed_by(b"c" * 16).dumps("other")) == "other"
    for content in ("", "short"):  # as if it was being written
        path.write_text(content)
        with pytest.raises(PayloadRejected):
            reader.loads(signed_by(b"d" * 16).dumps("forged"))
    path.write_text("d" * 16)
    assert reader.loads(signed_by(b"d" * 16).dumps("new")) == "new"


def test_keys_given_by_the_program_are_not_replaced_by_those_of_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(KEY_B)
    monkeypatch.setenv("RQSTACK_SECRET_KEY_FILE", str(tmp_path / "key"))
    reader = for_purpose(get_serializer(Settings(secret_key="p" * 16)), "arguments")
    with pytest.raises(PayloadRejected):
        reader.loads(signed_by(KEY_B.encode()).dumps(1))


class KeyedAs:
    """A signer of another process."""

    def __init__(self, key: str) -> None:
        signer = get_signer("webhook", Settings(secret_key=key))
        assert signer
        self.signature = signer.signature


def test_rq_finds_the_serializer_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    signed = use(monkeypatch, RQSTACK_SECRET_KEY=KEY_A)
    path = f"{signed.__module__}.{signed.__qualname__}"
    found = resolve_serializer(path)
    assert found is Default
    assert isinstance(signed, Serializer)
    assert found.loads(for_purpose(signed, "arguments").dumps(5)) == 5


def test_no_key_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(signing.PlainPickle, "_warned", False)
    plain = use(monkeypatch)
    with caplog.at_level(logging.WARNING, "rqstack.security"):
        assert plain.loads(plain.dumps(1)) == 1
    assert [record.message.partition(":")[0] for record in caplog.records] == ["RQSTACK_SECRET_KEY is not set"]
