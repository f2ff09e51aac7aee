"""Redis for other hosts: published on a chosen address, by TLS, without Docker. 'Other hosts' are other homes here."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from rqstack.settings.sources import read_env_file
from support.certificates import Authority
from support.paths import ROOT
from support.ports import free_port
from support.processes import environment_without, rqstack_command
from support.projects import copy_project

pytestmark = pytest.mark.timeout(400)


def outer_address() -> str:
    """An address of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


class Home:
    """A home with a task project, and commands that run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        copy_project("demo", root / "tasks")
        self.environment = environment_without("RQSTACK_", "REDIS_") | {"RQSTACK_HOME": str(root), "RQSTACK_GRACE": "2"}

    def write(self, settings: Mapping[str, str]) -> None:
        with (self.root / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in settings.items())

    def rqstack(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            rqstack_command(*arguments),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Home]:
    """A home with what a local stack needs, and secrets; not started."""
    made = Home(tmp_path / "server")
    for name in ("Procfile", "Procfile-monitor", "pyproject.toml"):
        shutil.copy(ROOT / name, made.root)
    for name in ("requirements", "services"):
        shutil.copytree(ROOT / name, made.root / name)
    (made.root / ".venv").symlink_to(sys.prefix)
    made.rqstack("stack", "setup")
    made.write({"REDIS_PORT": str(free_port())})
    try:
        yield made
    finally:
        made.rqstack("stack", "stop", "--mode", "local", check=False)


def other(tmp_path: Path, name: str, server: Home, role: str, address: str, **settings: str) -> Home:
    """A home on another host, with the settings that docs/other-hosts.md names."""
    secrets = read_env_file(server.root / ".env")
    made = Home(tmp_path / name)
    made.write(
        {
            "REDIS_URL": f"rediss://{address}:{secrets['REDIS_PORT']}/0",
            "REDIS_USERNAME": role,
            "REDIS_PASSWORD": secrets[f"REDIS_{role.upper()}_PASSWORD"],
            "RQSTACK_SECRET_KEY": secrets["RQSTACK_SECRET_KEY"],
            "RQSTACK_QUEUES": "short-running,default,elsewhere",
            **settings,
        }
    )
    return made


def test_producers_and_workers_on_other_hosts(server: Home, tmp_path: Path) -> None:
    address = outer_address()
    authority = Authority(tmp_path / "authority")
    ca = {"REDIS_TLS_CA": str(authority.ca)}
    server.write({"REDIS_BIND": address, **authority.settings("localhost", "127.0.0.1", address)})
    started = server.rqstack("stack", "start", "--mode", "local")
    port = read_env_file(server.root / "var" / "stack.env")["REDIS_PORT"]
    assert f"rediss://{address}:{port}" in started.stdout
    assert "without TLS" not in started.stdout
    for host in (address, "127.0.0.1"):
        with pytest.raises(ConnectionError):
            Redis(host=host, port=int(port), socket_timeout=5).ping()

    producer = other(tmp_path, "producer", server, "producer", address, **ca)
    job = producer.rqstack("trigger", "demo.tasks.add", "2", "3").stdout.split()[-1]
    producer.rqstack("wait", job, "--timeout", "60")
    assert producer.rqstack("result", "--jobid", job).stdout.strip() == "5"
    assert producer.rqstack("health").stdout.startswith("ok")

    worker = other(tmp_path, "worker", server, "worker", address, **ca)
    job = producer.rqstack("trigger", "demo.tasks.add", "3", "4", "--queue", "elsewhere").stdout.split()[-1]
    worker.rqstack("worker", "run", "elsewhere", "--burst")
    assert producer.rqstack("result", "--jobid", job).stdout.strip() == "7"

    rq = [str(Path(sys.executable).parent / "rq"), "info", "--config", "var.rq_settings"]
    listed = subprocess.run(rq, cwd=server.root, env=server.environment, capture_output=True, text=True, check=False)
    assert "short-running" in listed.stdout, listed.stderr

    stranger = Authority(tmp_path / "stranger")
    refused = other(tmp_path, "refused", server, "producer", address, REDIS_TLS_CA=str(stranger.ca))
    for command in (("trigger", "demo.tasks.add", "1", "1"), ("health",)):
        done = refused.rqstack(*command, check=False)
        assert done.returncode == 1
        assert "certificate" in done.stderr.lower()
        assert "Traceback" not in done.stderr
    assert "Check REDIS_TLS_CA" in refused.rqstack("trigger", "demo.tasks.add", "1", "1", check=False).stderr


def test_a_certificate_of_another_name_is_refused(server: Home, tmp_path: Path) -> None:
    address = outer_address()
    authority = Authority(tmp_path / "authority")
    server.write({"REDIS_BIND": "0.0.0.0", **authority.settings("localhost", "127.0.0.1")})
    server.rqstack("stack", "start", "--mode", "local")
    assert server.rqstack("trigger", "demo.tasks.add", "2", "3").returncode == 0
    elsewhere = other(tmp_path, "elsewhere", server, "producer", address, REDIS_TLS_CA=str(authority.ca))
    done = elsewhere.rqstack("trigger", "demo.tasks.add", "2", "3", check=False)
    assert done.returncode == 1
    assert "has a certificate that cannot be verified" in done.stderr
    assert "names the host as REDIS_URL does" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_tls_it_warns_and_with_weak_passwords_it_refuses(server: Home) -> None:
    server.write({"REDIS_BIND": "0.0.0.0"})
    said = server.rqstack("stack", "start", "--mode", "local").stdout
    assert "other hosts reach Redis without TLS" in said
    server.rqstack("stack", "stop", "--mode", "local")
    server.write({"REDIS_WORKER_PASSWORD": "short"})
    for command in (("stack", "setup"), ("stack", "start", "--mode", "local")):
        refused = server.rqstack(*command, check=False)
        assert refused.returncode == 1
        assert "a password has fewer than 16 characters: REDIS_WORKER_PASSWORD" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    server.write({"REDIS_BIND": "127.0.0.1"})
    server.rqstack("stack", "setup")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"REDIS_TLS_KEY": ""}, "REDIS_TLS_KEY is not set."),
        ({"REDIS_TLS_CERT": ""}, "REDIS_TLS_CERT is not set."),
        ({"REDIS_TLS_CA": ""}, "REDIS_TLS_CA is not set. It names"),
        ({"REDIS_TLS_CA": "/no/such/file"}, "/no/such/file cannot be read: No such file or directory."),
        ({"REDIS_TLS_KEY": "{other}"}, "REDIS_TLS_CERT and REDIS_TLS_KEY do not belong together"),
        ({"REDIS_TLS_CERT": "{text}"}, "REDIS_TLS_CERT and REDIS_TLS_KEY do not belong together"),
        ({"REDIS_TLS_CA": "{text}"}, "contains no certificate"),
        ({"REDIS_TLS_CERT": "{binary}"}, "it is not a text file in PEM format"),
        ({"REDIS_BIND": "somewhere"}, "should be an IPv4 address of this machine, or 0.0.0.0 for all"),
    ],
)
def test_files_that_do_not_fit_are_said(server: Home, tmp_path: Path, change: dict[str, str], sentence: str) -> None:
    authority = Authority(tmp_path / "authority")
    _, other_key = authority.issue("other")
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "binary").write_bytes(os.urandom(100))
    files = {"other": other_key, "text": tmp_path / "text", "binary": tmp_path / "binary"}
    changed = {name: value.format_map(files) for name, value in change.items()}
    settings = authority.settings("localhost") | changed
    server.write({name: value for name, value in settings.items() if value})
    done = server.rqstack("stack", "setup", check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_the_commands_of_the_page_make_certificates_that_fit(server: Home) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    page = (ROOT / "docs" / "other-hosts.md").read_text()
    blocks = re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    commands, settings = (re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks[:2])
    done = subprocess.run(
        ["bash", "-c", "set -e\n" + commands], cwd=server.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    server.write(dict(line.split("=", 1) for line in settings.splitlines()))
    server.rqstack("stack", "setup")
    assert "tls-port 6379" in (server.root / "var" / "secrets" / "redis_tls_options").read_text()
    key = server.root / "var" / "secrets" / "redis_tls_key"
    assert key.parent.stat().st_mode & 0o777 == 0o700
