"""`rqstack secrets`, and new passwords and keys in `.env`: a stack that runs goes on, and no job is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from support.local_stack import LocalStack
from support.producer import producing

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LocalStack]:
    made = LocalStack(tmp_path)
    try:
        assert made.start().returncode == 0
        yield made
    finally:
        made.close()


def run(project: LocalStack, *command: str) -> str:
    done = project.rqstack(*command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def env_values(project: LocalStack) -> dict[str, str]:
    lines = (project.root / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]", line))


def reconnect_all(project: LocalStack) -> None:
    """Every process loses its connections, and logs in again."""
    with project.redis() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")


def rotate(*options: str) -> Callable[[LocalStack], None]:
    return lambda project: (run(project, "secrets", "rotate", *options), None)[1]


def test_no_job_is_refused_while_secrets_are_rotated(project: LocalStack, tmp_path: Path) -> None:
    steps = [rotate(), rotate("--signing"), reconnect_all, rotate("--redis"), reconnect_all]
    first = env_values(project)
    with producing(project.root, project.environment, tmp_path / "producer.log") as producer:
        producer.enqueue_more()
        for step in steps:
            step(project)
            producer.enqueue_more()
        # The command line signs by the newest key; the producer and the workers have begun with the first.
        assert project.result(project.trigger("demo.tasks.add", "20", "22")) == "42"
        run(project, "secrets", "retire", "--redis")
        reconnect_all(project)
        producer.enqueue_more()
        outcomes = producer.end()
    expected = {job_id: ["SUCCESSFUL", number + 1] for number, job_id in enumerate(outcomes)}
    assert outcomes == expected
    assert len(outcomes) > 300
    last = env_values(project)
    assert last["RQSTACK_SECRET_KEY"].split(",")[2:] == [first["RQSTACK_SECRET_KEY"]]
    for role in ("ADMIN", "PRODUCER", "WORKER", "EXPORTER"):
        assert last[f"REDIS_{role}_PASSWORD"] != first[f"REDIS_{role}_PASSWORD"]
    with (
        project.redis() as client,
        Redis(port=int(project.environment["REDIS_PORT"]), username="worker") as old,
    ):
        assert client.hgetall("rqstack:metrics:payloads_rejected") == {}
        old.connection_pool.connection_kwargs["password"] = first["REDIS_WORKER_PASSWORD"]
        with pytest.raises(AuthenticationError):
            old.ping()


def test_a_stack_that_starts_again_knows_the_old_and_the_new(project: LocalStack) -> None:
    first = env_values(project)
    waiting = project.trigger("demo.tasks.add", "1", "2")
    run(project, "secrets", "rotate")
    project.stop()
    assert project.start().returncode == 0
    assert project.result(waiting) == "3"
    with Redis(port=int(project.environment["REDIS_PORT"]), username="worker") as old:
        old.connection_pool.connection_kwargs["password"] = first["REDIS_WORKER_PASSWORD"]
        assert old.ping()


def test_an_old_key_is_not_retired_while_jobs_need_it(project: LocalStack) -> None:
    assert project.result(project.trigger("demo.tasks.add", "1", "2")) == "3"
    run(project, "suspend")
    waiting = project.trigger("demo.tasks.add", "3", "4")
    run(project, "secrets", "rotate", "--signing")
    done = project.rqstack("secrets", "retire", "--signing")
    assert done.returncode == 1
    assert "2 records" in done.stderr  # the finished job is kept for its result
    assert len(env_values(project)["RQSTACK_SECRET_KEY"].split(",")) == 2
    run(project, "resume")
    assert project.result(waiting) == "7"
    with project.redis() as client:
        client.delete(*client.scan_iter("rq:job:*"))
    assert "1 old signing key" in run(project, "secrets", "retire", "--signing")
    assert len(env_values(project)["RQSTACK_SECRET_KEY"].split(",")) == 1
    assert project.result(project.trigger("demo.tasks.add", "5", "6")) == "11"


def test_start_takes_new_secrets_of_the_env_file_into_a_stack_that_runs(project: LocalStack) -> None:
    path = project.root / ".env"
    text = re.sub(r"^(REDIS_\w+_PASSWORD)=.*$", r"\1=of-the-\1", path.read_text(), flags=re.MULTILINE)
    path.write_text(re.sub(r"^RQSTACK_SECRET_KEY=.*$", "RQSTACK_SECRET_KEY=a-wholly-new-key", text, flags=re.MULTILINE))
    done = project.start()
    assert done.returncode == 0, done.stderr
    assert "already runs" in done.stdout
    assert project.result(project.trigger("demo.tasks.add", "1", "2")) == "3"
    reconnect_all(project)
    assert project.result(project.trigger("demo.tasks.add", "3", "4")) == "7"
    assert json.loads(run(project, "stack", "status", "--mode", "local", "--json"))["processes"]


def test_secrets_that_are_not_in_the_env_file_are_not_rotated(project: LocalStack) -> None:
    for option, name in (("--signing", "RQSTACK_SECRET_KEY"), ("--redis", "REDIS_WORKER_PASSWORD")):
        before = (project.root / ".env").read_bytes()
        done = project.rqstack("secrets", "rotate", option, **{name: "of the environment"})
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: {name} comes from environment")
        assert (project.root / ".env").read_bytes() == before
    project.stop()
    before = (project.root / ".env").read_bytes()
    done = project.rqstack("secrets", "rotate", "--redis")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Is it running?" in done.stderr
    assert (project.root / ".env").read_bytes() == before
