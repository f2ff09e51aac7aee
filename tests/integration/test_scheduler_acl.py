"""The scheduler as the Redis user that the stack gives it, and a producer that adds cron entries as its own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from rqstack.scheduling import Scheduler
from rqstack.settings import get_settings
from rqstack.stack.acl import PASSWORDS, users_acl
from support.processes import rqstack_command, start
from support.redis_server import RedisServer
from support.waiting import until


@pytest.fixture
def guarded(own_redis: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis with the stack's users."""
    file = tmp_path / "users.acl"
    file.write_text(
        users_acl({role: f"secret-{role}" for role in PASSWORDS}).replace("user default off", "user default on")
    )
    client = own_redis.client()
    for line in file.read_text().splitlines():
        name, *rules = line.removeprefix("user ").split()
        if name != "default":
            client.execute_command("ACL", "SETUSER", name, "reset", *rules)
    yield own_redis
    client.close()


def test_worker_and_producer_may_do_what_they_need(
    guarded: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", guarded.url)
    monkeypatch.setenv("REDIS_USERNAME", "producer")
    monkeypatch.setenv("REDIS_PASSWORD", "secret-producer")
    get_settings.cache_clear()
    with Scheduler() as scheduler:
        scheduler.cron("default", "* * * * * *", "demo.tasks.add", (1,))
        scheduler.enqueue_in("default", timedelta(0), "demo.tasks.add", (1,), job_id="delayed")
        monkeypatch.setenv("REDIS_USERNAME", "worker")
        monkeypatch.setenv("REDIS_PASSWORD", "secret-worker")
        log = tmp_path / "log"
        process = start(rqstack_command("scheduler"), log)
        try:
            until(lambda: scheduler.queued_count("default") >= 3, 40, log=log.read_text)
            health = rqstack_command("health", "--scheduler")
            assert subprocess.run(health, check=False, capture_output=True).returncode == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()
            process.wait()
        ids = scheduler.get_queue("default").job_ids
        assert "delayed" in ids
        assert sum(job_id.startswith("cron-") for job_id in ids) == len(ids) - 1
        assert scheduler.cancel_cron_jobs() == 0
        assert scheduler.purge("default") == 0
