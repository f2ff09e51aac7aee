"""With the stack's users, a restart of Redis keeps what transactions wrote."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from rqstack.stack.acl import PASSWORDS, users_acl
from support.ports import free_port
from support.redis_server import until_redis_answers

SERVERS = [name for name in ("redis-server", "valkey-server") if shutil.which(name)]


@pytest.mark.parametrize("server", SERVERS or [pytest.param("", marks=pytest.mark.skip("no Redis server on PATH"))])
def test_transactions_are_there_after_a_restart_and_nobody_is_the_default_user(server: str, tmp_path: Path) -> None:
    (tmp_path / "users.acl").write_text(users_acl({role: f"password of {role}" for role in PASSWORDS}))
    port = free_port()
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    command += ["--appendonly", "yes", "--aclfile", str(tmp_path / "users.acl")]
    worker = Redis(port=port, username="worker", password="password of worker")
    for start in range(2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until_redis_answers(worker, process)
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
