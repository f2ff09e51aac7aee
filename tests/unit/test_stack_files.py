"""The files and folders of a stack: secrets, locks, ports, what projects need, and which mode is chosen."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rqstack.errors import RqstackError, SettingsError
from rqstack.settings import Settings, StackSettings, load
from rqstack.stack import compose, dependencies, env, local, locks, mode, ports, processes


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_setup_makes_random_secrets_that_others_cannot_read(tmp_path: Path) -> None:
    assert env.setup(tmp_path)
    assert permissions(tmp_path / ".env") == 0o600
    assert permissions(tmp_path / "var" / "secrets") == 0o700
    secrets = env.secret_values(load(StackSettings)) | env.secret_values(load(Settings))
    made = [secrets[name] for name in env.generated_secrets()]
    assert len(made) == len(set(made)) >= 7
    assert all(len(value) >= 32 for value in made)
    for name in env.generated_secrets():
        path = tmp_path / "var" / "secrets" / name.lower()
        assert path.read_text() == secrets[name]
        assert permissions(path) == 0o444
    acl = (tmp_path / "var" / "redis" / "users.acl").read_text()
    assert not [value for value in made if value in acl]
    (tmp_path / ".env").unlink()
    env.setup(tmp_path)
    assert env.secret_values(load(StackSettings)) != secrets


def test_setup_never_overwrites_env(tmp_path: Path) -> None:
    env.setup(tmp_path)
    text = (tmp_path / ".env").read_text() + "RQSTACK_GRACE=7\n"
    (tmp_path / ".env").write_text(text)
    assert not env.setup(tmp_path)
    assert (tmp_path / ".env").read_text() == text


def test_setup_refuses_a_key_prefix_that_rq_would_not_see(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RQ_KEY_PREFIX=shop\n")
    with pytest.raises(SettingsError, match=r"sets it to 'shop', but RQ reads it from the environment only"):
        env.setup(tmp_path)


def test_a_changed_secret_reaches_the_files(tmp_path: Path) -> None:
    env.setup(tmp_path)
    before = (tmp_path / "var" / "redis" / "users.acl").read_text()
    lines = (tmp_path / ".env").read_text().splitlines()
    new = ["REDIS_WORKER_PASSWORD=new-one" if line.startswith("REDIS_WORKER_PASSWORD=") else line for line in lines]
    (tmp_path / ".env").write_text("\n".join(new))
    env.setup(tmp_path)
    assert (tmp_path / "var" / "secrets" / "redis_worker_password").read_text() == "new-one"
    assert (tmp_path / "var" / "redis" / "users.acl").read_text() != before


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    env.setup(tmp_path)
    lines = (tmp_path / ".env").read_text().splitlines()
    (tmp_path / ".env").write_text("\n".join(line for line in lines if not line.startswith("REDIS_WORKER_PASSWORD")))
    with pytest.raises(SettingsError, match=r"\.env has no value for REDIS_WORKER_PASSWORD\. Add a line") as problem:
        env.setup(tmp_path)
    assert "\n" not in str(problem.value)


def test_the_running_stack_is_found_by_what_it_wrote(tmp_path: Path) -> None:
    env.setup(tmp_path)
    env.write_stack_env("local", {"REDIS_URL": "redis://127.0.0.1:7001/0"}, tmp_path)
    env.update_stack_env({"DASHBOARD_PORT": 7002}, tmp_path)
    assert permissions(tmp_path / "var" / "stack.env") == 0o600
    settings = load(Settings)
    assert (settings.redis_url, settings.redis_username) == ("redis://127.0.0.1:7001/0", "admin")
    assert settings.redis_password == load(StackSettings).redis_admin_password
    assert load(StackSettings).dashboard_port == 7002
    env.remove_stack_env(tmp_path)
    assert env.read_stack_env(tmp_path) == {}


def test_a_lock_tells_who_runs_and_ends_with_its_process(tmp_path: Path) -> None:
    with locks.acquire(tmp_path, "worker.1", os.getpid()):
        assert list(locks.running_processes(tmp_path)) == [("worker.1", os.getpid())]
        with pytest.raises(locks.AlreadyRunning, match=f"already runs as process {os.getpid()}"):
            locks.acquire(tmp_path, "worker.1", 1)
    assert list(locks.running_processes(tmp_path)) == []
    code = "import os, sys; from pathlib import Path; from rqstack.stack import locks\n"
    code += "kept = locks.acquire(Path(sys.argv[1]), 'redis.1', os.getpid()); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert list(locks.running_processes(tmp_path)) == [("redis.1", child.pid)]
        child.kill()
    assert list(locks.running_processes(tmp_path)) == []


def test_a_taken_port_is_an_error_only_if_it_was_given(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = server.getsockname()[1]
        with pytest.raises(ports.PortInUse, match=f"REDIS_PORT={taken}: another program listens on port {taken}"):
            ports.choose("REDIS_PORT", taken, is_explicit=True, root=tmp_path)
        other = ports.choose("REDIS_PORT", taken, is_explicit=False, root=tmp_path)
        assert other != taken
        assert ports.is_free(other)
        assert ports.choose("REDIS_PORT", taken, is_explicit=False, root=tmp_path, taken=[other]) not in (taken, other)
    assert ports.choose("REDIS_PORT", taken, is_explicit=True, root=tmp_path) == taken


def wheel(folder: Path, name: str, version: str) -> Path:
    """A package that can be installed without an index."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_projects_get_what_they_depend_on_in_folders_of_their_own(tmp_path: Path) -> None:
    for project, version in (("one", "1.0"), ("two", "2.0"), ("none", "")):
        folder = tmp_path / "tasks" / project
        folder.mkdir(parents=True)
        needs = [f"tiny @ {wheel(tmp_path, 'tiny', version).as_uri()}"] if version else []
        (folder / "pyproject.toml").write_text(
            f"[project]\nname = {project!r}\nversion = '1'\ndependencies = {needs!r}\n"
        )
    said: list[str] = []
    found = list(dependencies.install_project_dependencies(tmp_path, tmp_path / "tasks", said.append))
    assert [path.name for path in found] == ["one", "two"]
    assert [(path / "tiny.py").read_text() for path in found] == ["VERSION = '1.0'\n", "VERSION = '2.0'\n"]
    assert said == ["Installing the dependencies of tasks/one.", "Installing the dependencies of tasks/two."]
    list(dependencies.install_project_dependencies(tmp_path, tmp_path / "tasks", said.append))
    assert len(said) == 2, "nothing changed, so nothing is installed"
    about = tmp_path / "tasks" / "one" / "pyproject.toml"
    about.write_text(about.read_text().replace("tiny-1.0", "tiny-2.0"))
    list(dependencies.install_project_dependencies(tmp_path, tmp_path / "tasks", said.append))
    assert said[2:] == ["Installing the dependencies of tasks/one."]
    assert (tmp_path / "var" / "deps" / "one" / "tiny.py").read_text() == "VERSION = '2.0'\n"


def test_a_dependency_that_cannot_be_installed_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "tasks" / "shop"
    folder.mkdir(parents=True)
    (folder / "requirements.txt").write_text(f"tiny @ {(tmp_path / 'tiny-1-py3-none-any.whl').as_uri()}\n")
    with pytest.raises(dependencies.InstallFailed, match=r"Cannot install the dependencies of tasks/shop: .*tiny"):
        dependencies.prepare_projects(tmp_path, print)
    assert not (tmp_path / "var" / "deps" / "shop").exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (None, "docker is not installed"),
        ("exit 1", "no Docker engine answers"),
        ('[ "$1" = info ] && echo ""', "no Docker engine answers"),
        ('[ "$1" = info ] && echo 20.10 && exit; exit 1', "Docker has no compose"),
    ],
)
def test_without_docker_the_mode_is_local_and_says_why(
    script: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        (tmp_path / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    chosen, why = mode.choose("auto")
    assert chosen == "local"
    assert reason in why
    with pytest.raises(mode.NoEngine, match=f"{reason}. Start Docker, or start without it"):
        mode.choose("compose")


@pytest.mark.parametrize(
    ("reason", "left", "stops"),
    [
        ("network a_broker id 1 has active endpoints", "", True),
        ("network a_broker id 1 has active endpoints", '{"Name": "a-redis-1", "Service": "redis"}', False),
        ("permission denied", "", False),
    ],
)
def test_a_network_that_docker_keeps_is_not_a_stop_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, left: str, stops: bool
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        f"#!/bin/sh\ncase $* in\n*' ps '*) echo '{left}';;\n"
        "*' config '*) echo '{\"name\": \"a\"}';;\nps*) ;;\n"
        f"*) echo '{reason}' >&2; exit 1;;\nesac\n"
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said: list[str] = []
    if stops:
        compose.stop(tmp_path, said.append)
        assert said[0].startswith("Docker keeps a network")
    else:
        with pytest.raises(compose.StackFailed, match=reason):
            compose.stop(tmp_path, said.append)


def test_addresses_are_those_of_processes_that_run(tmp_path: Path) -> None:
    values = {"REDIS_URL": "redis://127.0.0.1:1/0", "RQ_EXPORTER_PORT": "2", "PROMETHEUS_PORT": "3"}
    env.write_stack_env("local", values, tmp_path)
    with locks.acquire(tmp_path, "rq-exporter.1", os.getpid()):
        assert local.addresses(tmp_path) == {"Redis": values["REDIS_URL"], "rq-exporter": "http://127.0.0.1:2"}
    assert local.addresses(tmp_path) == {"Redis": values["REDIS_URL"]}


def test_a_build_that_signals_its_process_group_ends_itself_alone(tmp_path: Path) -> None:
    """As mmdebstrap does when it fails."""
    script = tmp_path / "deploy" / "airgap" / "build-images"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\necho 'the mirror is away' >&2\nkill -HUP 0\nsleep 60\n")
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    for path in (script, tmp_path / "docker"):
        path.chmod(0o755)
    code = "import sys; from pathlib import Path; from rqstack.stack import images\n"
    code += "images.ensure(Path(sys.argv[1]), {'redis': 'redis:8'}, 5, print)"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 1, "not -SIGHUP"
    assert "ImagesMissing: Cannot build base images from Debian packages: the mirror is away" in done.stderr


def test_with_docker_the_mode_is_compose_unless_a_local_stack_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho 26\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mode.choose("auto") == ("compose", "")
    assert mode.running("auto") == "compose"
    with locks.acquire(tmp_path, "worker.1", os.getpid()):
        assert mode.running("auto") == "local"
        with pytest.raises(RqstackError, match=r"runs without Docker\. Stop it first: make stop"):
            mode.choose("compose")
    assert mode.choose("compose") == ("compose", "")
    env.setup(tmp_path)
    env.write_stack_env("local", {}, tmp_path)
    assert mode.choose("auto") == ("local", "")


def test_a_process_of_no_such_name_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        RqstackError, match=r"web\.1: no such process\. Known are redis, worker, long-worker, scheduler"
    ):
        processes.get("web.1")
