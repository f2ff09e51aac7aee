"""What `make start` chooses and remembers in the block of `.env`, and that the rest of the file stays as it is."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rqstack.errors import SettingsError
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.sources import read_env_file
from rqstack.stack import choices, env, generated, mode, ports, project

LINES = st.lists(
    st.sampled_from(["# a comment", "", "REDIS_PORT=7000", "export A='x # y'", 'b="two\\nlines"', "  C = 3", "é=ü"])
    | st.from_regex(r"[A-Z_]{1,8}=[a-z0-9]{1,8}", fullmatch=True),
    max_size=8,
)
ENDS = st.sampled_from(["\n", "\r\n"])
VALUES = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z_]{0,8}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9./:_-]{1,12}", fullmatch=True) | st.none(),
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(lines=LINES, end=ENDS, ends_open=st.booleans(), mark=st.booleans(), updates=st.lists(VALUES, max_size=3))
def test_the_rest_of_the_file_is_never_changed(
    lines: list[str],
    end: str,
    ends_open: bool,
    mark: bool,
    updates: list[dict[str, str | None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("home")
    path = root / ".env"
    text = "".join(line + end for line in lines)
    text = text.removesuffix(end) if ends_open else text
    path.write_bytes((("\ufeff" if mark else "") + text).encode())
    users = read_env_file(path)
    known: dict[str, str] = {}
    for update in updates:
        generated.update(root, dict(update))
        known |= {name: value for name, value in update.items() if value is not None}
        known = {name: value for name, value in known.items() if update.get(name, "") is not None}
        assert generated.read(root) == known
        after = path.read_bytes().decode().partition(generated.END)[2].removeprefix("\r").removeprefix("\n")
        assert after == text
        assert generated.own(root) == users
        assert read_env_file(path) == known | users, "the user's own line wins"
    shutil.rmtree(root)


def test_a_link_and_its_permissions_stay(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("A=1\n")
    target.chmod(0o640)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".env").symlink_to(target)
    generated.update(tmp_path / "home", {"REDIS_PORT": 7001})
    assert (tmp_path / "home" / ".env").is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert target.read_text().endswith("\nA=1\n")


def test_setup_chooses_once_and_leaves_to_the_user_what_they_set(tmp_path: Path) -> None:
    env.setup(tmp_path)
    first = generated.read(tmp_path)
    assert first["COMPOSE_PROJECT_NAME"] == project.of_folder(tmp_path)
    assert first["RQSTACK_IMAGE"] == f"rqstack/worker:{first['COMPOSE_PROJECT_NAME']}"
    assert set(choices.PORTS) <= first.keys()
    with (tmp_path / ".env").open("a") as file:
        file.write("COMPOSE_PROJECT_NAME=shop\nREDIS_PORT=7002\n")
    env.setup(tmp_path)
    second = generated.read(tmp_path)
    assert not {"COMPOSE_PROJECT_NAME", "REDIS_PORT"} & second.keys()
    assert second["RQSTACK_IMAGE"] == "rqstack/worker:shop"
    assert {name: second[name] for name in choices.PORTS if name != "REDIS_PORT"} == {
        name: first[name] for name in choices.PORTS if name != "REDIS_PORT"
    }


def test_a_port_that_is_taken_later_is_chosen_anew_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.setup(tmp_path)
    reported: list[str] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        generated.update(tmp_path, {"REDIS_PORT": taken})
        chosen = choices.move_port(tmp_path, "REDIS_PORT", taken, reported.append)
        assert chosen != taken
        assert reported == [f"Port {taken} is in use, so REDIS_PORT is {chosen} from now on."]
        assert load(StackSettings).redis_port == chosen
        with (tmp_path / ".env").open("a") as file:
            file.write(f"REDIS_PORT={taken}\n")
        with pytest.raises(ports.PortInUse, match=f"REDIS_PORT={taken}: another program"):
            choices.move_port(tmp_path, "REDIS_PORT", taken, reported.append)
        # honcho passes all of .env on: what stands in the block was not set by the user.
        (tmp_path / ".env").write_text((tmp_path / ".env").read_text().replace(f"\nREDIS_PORT={taken}\n", "\n"))
        generated.update(tmp_path, {"REDIS_PORT": taken})
        monkeypatch.setenv("REDIS_PORT", str(taken))
        assert not generated.is_users(tmp_path, "REDIS_PORT")
        monkeypatch.setenv("REDIS_PORT", "7003")
        assert generated.is_users(tmp_path, "REDIS_PORT")


def test_names_are_by_folder(tmp_path: Path) -> None:
    names = {project.of_folder(tmp_path / each / "rqstack") for each in "abc"}
    assert len(names) == 3
    assert all(name.startswith("rqstack-") for name in names)
    assert project.of_folder(Path("/srv/Mein Projekt! é")).startswith("mein-projekt-")
    assert project.of_folder(Path("/")).startswith("stack-")


def docker(folder: Path, monkeypatch: pytest.MonkeyPatch, containers: str, volumes: str) -> None:
    """A `docker` that lists these folders of containers, and these volumes."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "docker"
    program.write_text(f"#!/bin/sh\ncase $1 in ps) printf '{containers}';; volume) printf '{volumes}';; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("containers", "volumes", "keeps"),
    [("{home}", "", True), ("", "rqstack_redis", True), ("", "", False), ("/elsewhere", "rqstack_redis", False)],
    ids=["its containers", "volumes", "nothing", "containers of another folder"],
)
def test_a_folder_keeps_the_former_name_of_its_stack(
    containers: str, volumes: str, keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker(tmp_path, monkeypatch, containers.format(home=tmp_path), volumes)
    chosen = project.choose(tmp_path, is_new=False, recorded=None, recorded_for=None)
    assert chosen == ("rqstack" if keeps else project.of_folder(tmp_path))
    assert project.choose(tmp_path, is_new=True, recorded=None, recorded_for=None) == project.of_folder(tmp_path)


def test_without_an_engine_an_old_folder_gets_its_name_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env.setup(tmp_path)
    path = tmp_path / ".env"
    path.write_text(path.read_text().partition(f"{generated.END}\n")[2])
    monkeypatch.setenv("PATH", str(tmp_path))
    env.setup(tmp_path)
    assert "COMPOSE_PROJECT_NAME" not in generated.read(tmp_path)
    docker(tmp_path, monkeypatch, "", "")
    env.setup(tmp_path)
    assert generated.read(tmp_path)["COMPOSE_PROJECT_NAME"] == project.of_folder(tmp_path)


def test_a_moved_folder_keeps_its_stack_and_a_copied_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, moved, copied = tmp_path / "first", tmp_path / "moved", tmp_path / "copied"
    first.mkdir()
    monkeypatch.setenv("RQSTACK_HOME", str(first))
    env.setup(first)
    chosen = generated.read(first)
    first.rename(moved)
    monkeypatch.setenv("RQSTACK_HOME", str(moved))
    env.setup(moved)
    assert generated.read(moved) == chosen
    shutil.copytree(moved, copied)
    monkeypatch.setenv("RQSTACK_HOME", str(copied))
    env.setup(copied)
    assert generated.read(copied)["COMPOSE_PROJECT_NAME"] == project.of_folder(copied)
    assert generated.read(moved) == chosen


def test_an_engine_that_is_gone_starts_no_second_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env.setup(tmp_path)
    choices.remember_mode(tmp_path, "compose")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mode.NoEngine, match=r"Docker cannot be used: docker is not installed\. Start Docker\."):
        mode.choose("auto")
    assert mode.choose("local") == ("local", "")
    choices.remember_mode(tmp_path, "local")
    docker(tmp_path, monkeypatch, "", "")
    assert mode.choose("auto") == ("local", "")


def test_the_command_line_needs_no_file_but_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env.setup(tmp_path)
    generated.update(tmp_path, {"REDIS_PORT": 7004})
    found = load(Settings)
    assert (found.redis_url, found.redis_username) == ("redis://127.0.0.1:7004/0", "admin")
    assert found.redis_password == load(StackSettings).redis_admin_password
    # Another server gets none of it.
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/0")
    assert (load(Settings).redis_username, load(Settings).redis_password) == (None, None)
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setenv("REDIS_PASSWORD", "mine")
    assert (load(Settings).redis_url, load(Settings).redis_username) == ("redis://127.0.0.1:7004/0", None)


def test_an_app_may_name_the_files_of_secrets_in_its_env(tmp_path: Path) -> None:
    """As docs/compose.md shows it."""
    (tmp_path / "secret").write_text("sesame of Ali Baba\n")
    (tmp_path / ".env").write_text(f"REDIS_PASSWORD_FILE=secret\nRQSTACK_SECRET_KEY_FILE={tmp_path / 'secret'}\n")
    found = load(Settings)
    assert found.redis_password is not None
    assert found.redis_password.get_secret_value() == "sesame of Ali Baba"
    assert found.secret_keys() == (b"sesame of Ali Baba",)
    (tmp_path / ".env").write_text("REDIS_PASSWORD_FILE=none\n")
    with pytest.raises(SettingsError, match="REDIS_PASSWORD_FILE: cannot read"):
        load(Settings)
