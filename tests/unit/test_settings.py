"""Settings: where a value comes from, what a wrong one gets, and that the files which list them agree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from rqstack.errors import SettingsError
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.loader import SettingsBase, declared_settings, group
from rqstack.stack import env
from support.processes import rqstack_command

ROOT = Path(__file__).resolve().parents[2]
REGENERATE = "run `make lock`"
_mail = group("Mail")


def test_env_example_lists_the_declared_settings() -> None:
    assert (ROOT / ".env.example").read_text() == env.example(), REGENERATE


def test_the_page_of_settings_lists_the_declared_settings() -> None:
    assert env.table() in (ROOT / "docs" / "settings.md").read_text(), REGENERATE


def test_every_setting_is_listed_once_with_a_reason() -> None:
    listed = re.findall(r"^#([A-Z_]+)=", env.example(), re.MULTILINE)
    declared = len(declared_settings(Settings)) + len(declared_settings(StackSettings))
    assert len(listed) == len(set(listed)) == declared
    for cls in (Settings, StackSettings):
        for name, setting in declared_settings(cls).items():
            assert setting.description.endswith("."), name
            assert setting.group, name


def test_the_fields_of_a_group_are_next_to_each_other() -> None:
    titles = [title for title, _ in env.groups()]
    assert len(titles) == len(set(titles))
    listed = [setting for _, settings in env.groups() for setting in settings]
    assert listed == [setting for cls in (Settings, StackSettings) for setting in declared_settings(cls).values()]


def test_a_field_declares_its_group_description_limits_and_second_name() -> None:
    class MailSettings(SettingsBase, frozen=True):
        port: Annotated[int, _mail("Where to send it.", ge=1, also="MAIL_PORT")] = 25
        host: str = "localhost"

    declared = declared_settings(MailSettings)
    port, host = declared["port"], declared["host"]
    assert (port.group, port.description, port.names) == ("Mail", "Where to send it.", ("RQSTACK_PORT", "MAIL_PORT"))
    assert port.allowed() == "a whole number, at least 1"
    assert (host.group, host.description) == ("", "")


def test_the_example_uncommented_gives_the_defaults(tmp_path: Path) -> None:
    lines = [re.sub(r"^#(?=[A-Z_]+=)", "", line) for line in env.example().splitlines()]
    (tmp_path / ".env").write_text("\n".join(lines))
    for cls in (Settings, StackSettings):
        assert asdict(load(cls)) == {name: setting.default for name, setting in declared_settings(cls).items()}


def test_each_source_gives_way_to_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "var").mkdir()
    assert load(Settings).redis_url == "redis://127.0.0.1:6379/0"
    (tmp_path / ".env").write_text("REDIS_URL=redis://file/0\n")
    assert load(Settings).redis_url == "redis://file/0"
    (tmp_path / "var" / "stack.env").write_text("REDIS_URL=redis://running/0\n")
    assert load(Settings).redis_url == "redis://running/0"
    monkeypatch.setenv("REDIS_URL", "redis://environment/0")
    assert load(Settings).redis_url == "redis://environment/0"


def test_a_secret_comes_from_the_file_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text("from a file\n")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    password = load(Settings).redis_password
    assert password is not None
    assert password.get_secret_value() == "from a file"
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"REDIS_PASSWORD_FILE: cannot read .*none: No such file"):
        load(Settings)
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    with pytest.raises(SettingsError, match=r"REDIS_PASSWORD_FILE: cannot read .*password: byte 1 is not UTF-8"):
        load(Settings)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"REDIS_URL=redis://h\nRQSTACK_SECRET_KEY='sesame\n", r"\.env, line 2: this is not NAME=value"),
        (b"# caf\xe9\n", r"cannot read .*\.env: byte 6 is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_passed_over(content: bytes, told: str, tmp_path: Path) -> None:
    """Its line may be the key that signs."""
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(SettingsError, match=told) as problem:
        load(Settings)
    assert "sesame" not in str(problem.value)


def test_names_may_be_written_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("rqstack_secret_key=the key of the file\nrqstack_grace=7\n")
    monkeypatch.setenv("rqstack_grace", "9")
    assert load(Settings).secret_keys() == (b"the key of the file",)
    assert load(Settings).grace == 9


def test_an_object_made_by_hand_is_checked_too() -> None:
    settings = Settings(secret_key="sesame of Ali Baba", queues=["a"], processes="3", redis_password="sesame")
    assert (settings.secret_keys(), settings.queues, settings.processes) == ((b"sesame of Ali Baba",), ("a",), 3)
    assert "sesame" not in repr(settings)
    with pytest.raises(SettingsError, match=r"RQSTACK_PROCESSES: 'many' is not allowed: should be a whole number"):
        Settings(processes="many")
    with pytest.raises(SettingsError, match="at least twice RQSTACK_HEARTBEAT"):
        replace(settings, heartbeat=20)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("REDIS_URL", "localhost:6379", "redis://"),
        ("REDIS_URL", "redis://127.0.0.1:99999/0", "port from 1 to 65535"),
        ("REDIS_URL", "redis://127.0.0.1:none/0", "port from 1 to 65535"),
        ("REDIS_URL", "redis://127.0.0.1:0/0", "port from 1 to 65535"),
        ("REDIS_URL", "redis://[::1/0", "host that can be read"),
        ("REDIS_URL", "redis+cluster://a:1,b:99999", "port from 1 to 65535"),
        ("REDIS_URL", "redis+cluster://a:1,,b:2", "one comma each"),
        ("REDIS_URL", "redis+cluster://", "one comma each"),
        ("REDIS_URL", "redis+cluster://a:1,b:2/3", "one database only"),
        ("REDIS_URL", "rediss+cluster://a:1,b:2?db=1", "one database only"),
        ("REDIS_URL", "redis://127.0.0.1:6379/first", "database is a number"),
        ("REDIS_URL", "redis://127.0.0.1:6379/-1", "database is a number"),
        ("REDIS_URL", "unix:///run/redis.sock?db=one", "database is a number"),
        ("RQSTACK_PROCESSES", "0", "a whole number, at least 1"),
        ("RQSTACK_PROCESSES", "many", "a whole number, at least 1"),
        ("RQSTACK_GRACE", "-3", "a whole number, at least 1"),
        ("RQSTACK_QUEUES", " , ", "at least one"),
        ("RQSTACK_SERIALIZER", "yaml", "'pickle' or 'json'"),
        ("RQSTACK_LOG_FORMAT", "xml", "'text' or 'json'"),
        ("RQSTACK_HEARTBEAT", "61", "a number, above 0 and at most 60"),
        ("RQSTACK_DEAD_AFTER", "inf", "a number, at least 2"),
        ("RQSTACK_DEAD_AFTER", "nan", "a number, at least 2"),
        ("RQSTACK_MAX_JOBS", "null", "a whole number, at least 1"),
        ("RQSTACK_GRACE", "1.5", "a whole number, at least 1"),
        ("REDIS_PORT", "70000", "at least 1 and at most 65535"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    name: str, value: str, allowed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    cls = Settings if name in [setting.name for setting in declared_settings(Settings).values()] else StackSettings
    with pytest.raises(SettingsError) as problem:
        load(cls)
    text = str(problem.value)
    assert "\n" not in text
    assert text.startswith(f"{name}: {value!r} is not allowed")
    assert allowed in text
    assert str(tmp_path / ".env") in text


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h", "redis://h/", "rediss://u:p%40w@h:1/15", "redis://[::1]:6379/1?db=2", "unix:///run/r.sock?db=1"),
        *("redis+cluster://h", "redis+cluster://u:p%40w@h:1,[::1]:2/0", "rediss+cluster://h:1,i:2?ssl_cert_reqs=none"),
    ],
)
def test_a_good_url_is_taken_as_it_is(url: str) -> None:
    assert load(Settings, redis_url=url).redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:sesame@localhost:99999/0",
        "redis://:a/sesame@h:6379/0",
        "me:sesame@h:6379/0",
        "redis://h:6379/x?password=sesame",
    ],
)
def test_a_password_in_a_wrong_url_is_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as problem:
        load(Settings, redis_url=url)
    assert "sesame" not in str(problem.value)


def test_heartbeats_that_come_too_seldom_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between two of them a living worker would count as dead, and its jobs would run twice."""
    monkeypatch.setenv("RQSTACK_HEARTBEAT", "30")
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "sesame of Ali Baba")
    with pytest.raises(SettingsError) as problem:
        load(Settings)
    text = str(problem.value)
    assert text.startswith("RQSTACK_DEAD_AFTER: 12 is not allowed: should be at least twice RQSTACK_HEARTBEAT")
    assert "\n" not in text
    assert "sesame" not in text
    assert str(tmp_path / ".env") in text
    monkeypatch.setenv("RQSTACK_DEAD_AFTER", "60")
    assert load(Settings).dead_after == 60


def test_a_wrong_secret_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as problem:
        load(Settings, secret_key=["a", "b"])
    assert "(hidden)" in str(problem.value)


def test_the_command_line_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_GRACE", "soon")
    command = rqstack_command("worker", "run")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: RQSTACK_GRACE: 'soon' is not allowed")


def test_every_secret_comes_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Settings, StackSettings):
        for name, setting in declared_settings(cls).items():
            if setting.is_secret:
                monkeypatch.setenv(f"{setting.name}_FILE", str(tmp_path / name))
                (tmp_path / name).write_text(f"the value of {name}\n")
        settings = load(cls)
        for name, setting in declared_settings(cls).items():
            if setting.is_secret:
                assert getattr(settings, name).get_secret_value() == f"the value of {name}"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1", True),
        ("true", True),
        ("Yes", True),
        (" on ", True),
        ("y", True),
        ("0", False),
        ("No", False),
        ("F", False),
    ],
)
def test_a_switch_takes_the_usual_words(text: str, meant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_RELOAD", text)
    assert load(Settings).reload is meant


@pytest.mark.parametrize(("text", "meant"), [(".5", 0.5), ("5.", 5), ("05", 5), (" +5 ", 5), ("1e1", 10)])
def test_a_number_is_written_as_in_python(text: str, meant: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_HEARTBEAT", text)
    monkeypatch.setenv("RQSTACK_DEAD_AFTER", "60")
    assert load(Settings).heartbeat == meant


def test_a_setting_may_have_a_second_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_BACKEND", "site.Backend")
    assert load(Settings).queue_backend == "site.Backend"
    monkeypatch.setenv("RQSTACK_QUEUE_BACKEND", "own.Backend")
    assert load(Settings).queue_backend == "own.Backend"


def test_every_wrong_value_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_GRACE", "soon")
    monkeypatch.setenv("RQSTACK_RELOAD", "maybe")
    with pytest.raises(SettingsError) as problem:
        load(Settings)
    assert [line.split(":")[0] for line in str(problem.value).splitlines()] == ["RQSTACK_RELOAD", "RQSTACK_GRACE"]


def test_no_secret_is_shown_with_the_settings() -> None:
    settings = load(Settings, secret_key="sesame of Ali Baba", redis_password="sesame")
    assert "sesame" not in f"{settings!r} {settings} {settings.secret_key} {settings.secret_key!r}"


@given(value=st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@pytest.mark.parametrize("name", ["RQSTACK_PROCESSES", "RQSTACK_HEARTBEAT", "RQSTACK_RELOAD", "RQSTACK_LOG_LEVEL"])
def test_any_text_is_a_value_or_told(name: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        patch.setenv("RQSTACK_DEAD_AFTER", "500")
        try:
            settings = load(Settings)
        except SettingsError as error:
            assert str(error).startswith(f"{name}: ")  # noqa: PT017 - either is fine
            return
    assert 1 <= settings.processes <= 512
    assert 0 < settings.heartbeat <= 60
    assert settings.reload in (True, False)
    assert settings.log_level in ("DEBUG", "INFO", "WARNING", "ERROR")
