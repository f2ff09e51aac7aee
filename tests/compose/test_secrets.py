"""`rqstack secrets` under compose: containers that run take the new key and the new passwords."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from rqstack.settings.sources import read_env_file
from support.compose_stack import ComposeStack
from support.producer import producing
from support.projects import copy_project


def reconnect_all(stack: ComposeStack) -> None:
    values = read_env_file(stack.home / "var" / "stack.env")
    with Redis.from_url(values["REDIS_URL"], username="admin", password=values["REDIS_PASSWORD"]) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def running(stack: ComposeStack) -> dict[str, str]:
    return {each["Id"]: each["State"]["StartedAt"] for each in stack.containers() if each["State"]["Running"]}


def test_no_job_is_refused_and_no_container_restarts(new_stack: ComposeStack, tmp_path: Path) -> None:
    stack = new_stack
    copy_project("demo", stack.home / "tasks")
    stack.start()
    started = running(stack)
    first = read_env_file(stack.home / ".env")
    with producing(stack.home, stack.environment, tmp_path / "producer.log") as producer:
        producer.enqueue_more()
        for options in ([], ["--redis"], ["--signing"]):
            stack.rqstack("secrets", "rotate", *options)
            producer.enqueue_more()
            reconnect_all(stack)
            producer.enqueue_more()
        stack.rqstack("secrets", "retire", "--redis")
        reconnect_all(stack)
        producer.enqueue_more()
        outcomes = producer.end()
    assert outcomes == {job_id: ["SUCCESSFUL", number + 1] for number, job_id in enumerate(outcomes)}
    assert running(stack) == started
    port = int(read_env_file(stack.home / "var" / "stack.env")["REDIS_PORT"])
    with (
        pytest.raises(AuthenticationError),
        Redis(port=port, username="worker", password=first["REDIS_WORKER_PASSWORD"]) as old,
    ):
        old.ping()
    # Health checks log in each time.
    stack.until(lambda: all(stack.healthy(service) == 1 for service in ("redis", "worker", "scheduler")))

    # New ones by hand: `make start` tells the Redis that runs, and the command line goes on.
    path = stack.home / ".env"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("REDIS_ADMIN_PASSWORD=")]
    path.write_text("\n".join([*lines, "REDIS_ADMIN_PASSWORD=by-hand"]) + "\n")
    stack.start()
    assert running(stack) == started
    assert "queues" in stack.rqstack("info").stdout
