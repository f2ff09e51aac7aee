"""A signing key of the user's keeps its value in `.env` when a new one is put before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rqstack.errors import SettingsError
from rqstack.settings import Settings, load
from rqstack.stack import env, rotation


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RQSTACK_HOME", str(tmp_path))
    monkeypatch.delenv("RQSTACK_SECRET_KEY", raising=False)
    env.setup(tmp_path)
    return tmp_path


def set_key(root: Path, written: str) -> None:
    env.set_values(root, {"RQSTACK_SECRET_KEY": written})


@pytest.mark.parametrize(
    "written",
    [
        "plain-0123456789-0123456789-0123456789",
        "'a key of many words, 0123456789 #and more'",
        '"0123456789-0123456789-0123456789\\"q"',
    ],
)
def test_a_key_that_needs_quotation_marks_is_still_accepted(root: Path, written: str) -> None:
    set_key(root, written)
    before = load(Settings).secret_keys()
    rotation.rotate_signing_key(root)
    assert load(Settings).secret_keys()[1:] == before
    rotation.rotate_signing_key(root)
    assert load(Settings).secret_keys()[2:] == before


def test_a_key_that_cannot_be_written_is_refused_and_nothing_changes(root: Path) -> None:
    set_key(root, '"0123456789-0123456789-0123456789 #it\'s"')
    text = (root / ".env").read_text()
    with pytest.raises(SettingsError, match="RQSTACK_SECRET_KEY has characters"):
        rotation.rotate_signing_key(root)
    assert (root / ".env").read_text() == text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_env_keeps_its_owner_when_root_rotates(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    os.chown(root / ".env", 1234, 1234)
    rotation.rotate_signing_key(root)
    status = (root / ".env").stat()
    assert (status.st_uid, status.st_gid) == (1234, 1234)
