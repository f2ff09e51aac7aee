"""The scheduler as the Redis user that the stack gives it, and a producer that adds cron entries as its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rqstack.scheduling import Scheduler
from rqstack.settings import get_settings
from rqstack.stack.acl import ROLES, users_acl


@pytest.fixture
def guarded(own_redis: Any, tmp_path: Path) -> Iterator[Any]:
    """A Redis with the stack's users."""
    file = tmp_path / "users.acl"
    file.write_text(
        users_acl({role: f"secret-{role}" for role in ROLES}).replace("user default off", "user default on")
    )
    client = own_redis.client()
    for line in file.read_text().splitlines():
        name, *rules = line.removeprefix("user ").split()
        if name != "default":
            client.execute_command("ACL", "SETUSER", name, "reset", *rules)
    yield own_redis
    client.close()


def test_worker_and_producer_may_do_what_they_need(
    guarded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "rqstack.cli.main", "scheduler"], stdout=file, stderr=file
            )
        try:
            deadline = time.monotonic() + 40
            while scheduler.queued_count("default") < 3:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            health = [sys.executable, "-m", "rqstack.cli.main", "health", "--scheduler"]
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
