"""With the stack's users, a restart of Redis keeps what transactions wrote."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as Refused

from rqstack.stack.acl import ROLES, users_acl

SERVERS = [name for name in ("redis-server", "valkey-server") if shutil.which(name)]


@pytest.mark.parametrize("server", SERVERS or [pytest.param("", marks=pytest.mark.skip("no Redis server on PATH"))])
def test_transactions_are_there_after_a_restart_and_nobody_is_the_default_user(server: str, tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text(users_acl({role: f"password of {role}" for role in ROLES}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    command += ["--appendonly", "yes", "--aclfile", str(tmp_path / "users.acl")]
    worker = Redis(port=port, username="worker", password="password of worker")
    for start in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    worker.ping()
                    break
                except Refused:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            if start == 0:
                with worker.pipeline(transaction=True) as transaction:
                    transaction.hset("rq:job:1", "status", "queued")
                    transaction.rpush("rq:queue:default", "1")
                    transaction.execute()
            assert worker.hget("rq:job:1", "status") == b"queued"
            assert worker.lrange("rq:queue:default", 0, -1) == [b"1"]
            with pytest.raises(AuthenticationError):
                Redis(port=port).ping()
            for password in ("", "password of admin"):
                with pytest.raises(AuthenticationError):
                    Redis(port=port, username="default", password=password).ping()
        finally:
            process.terminate()
            process.wait()
            worker.close()
