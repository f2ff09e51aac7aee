"""The Redis users of the stack, in real servers: what each role may do, and what it may not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from rq import Queue, SimpleWorker, Worker
from rq.command import send_stop_job_command
from rq.job import Job

from rqstack.errors import SettingsError
from rqstack.stack.acl import RULES, users_acl
from support.ports import free_port
from support.redis_server import redis_binaries, until_redis_answers

PASSWORDS = {role: f"secret-of-{role}" for role in RULES}


@pytest.fixture(
    scope="module", params=redis_binaries(), ids=lambda path: Path(path).name + ("-lite" if "lite" in path else "")
)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server with the stack's ACL file."""
    folder = tmp_path_factory.mktemp("acl")
    (folder / "users.acl").write_text(users_acl(PASSWORDS))
    number = free_port()
    command = [request.param, "--port", str(number), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([*command, "--aclfile", str(folder / "users.acl")], stdout=subprocess.PIPE)
    try:
        until_redis_answers(user("admin", number), process)
        yield number
    finally:
        process.kill()
        process.communicate()


def user(role: str, port: int) -> Redis:
    return Redis(port=port, username=role, password=PASSWORDS[role])


@pytest.fixture
def as_role(port: int) -> Callable[[str], Redis]:
    user("admin", port).flushall()
    return lambda role: user(role, port)


def test_no_password_is_written_in_clear() -> None:
    text = users_acl(PASSWORDS)
    assert not [password for password in PASSWORDS.values() if password in text]
    assert text.startswith("user default off ")


def test_a_role_without_password_is_named() -> None:
    with pytest.raises(SettingsError, match=r"REDIS_WORKER_PASSWORD: no value.*make setup"):
        users_acl(PASSWORDS | {"worker": ""})


def test_the_default_user_is_off(port: int) -> None:
    with pytest.raises(AuthenticationError):
        Redis(port=port).ping()


@pytest.mark.parametrize("role", ["producer", "worker", "exporter"])
@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "dir"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("RANDOMKEY",),
        ("DBSIZE",),
        ("SCRIPT", "FLUSH"),
        ("FUNCTION", "FLUSH"),
        ("DEBUG", "OBJECT", "rq:x"),
        ("SHUTDOWN", "NOSAVE"),
        ("ACL", "LIST"),
        ("CLIENT", "KILL", "ID", "1"),
        ("MONITOR",),
        ("REPLICAOF", "127.0.0.1", "1"),
        ("SAVE",),
        ("GET", "other"),
        ("SET", "other", "1"),
        ("PUBLISH", "other", "1"),
    ],
    ids=" ".join,
)
def test_what_no_role_may(as_role: Callable[[str], Redis], role: str, command: tuple[str, ...]) -> None:
    with pytest.raises((NoPermissionError, ResponseError)) as raised:
        as_role(role).execute_command(*command)
    # Redis 6.2 has no functions; 7 refuses DEBUG to everybody before it asks for the user.
    assert (
        "permission" in str(raised.value)
        or "DEBUG command not allowed" in str(raised.value)
        or "unknown" in str(raised.value).lower()
    )


def test_the_exporter_reads_and_does_not_write(as_role: Callable[[str], Redis]) -> None:
    as_role("producer").set("rqstack:x", "1")
    exporter = as_role("exporter")
    assert exporter.get("rqstack:x") == b"1"
    assert "used_memory" in exporter.info("memory")
    assert exporter.client_list()
    for command in (("SET", "rq:x", "1"), ("DEL", "rq:x"), ("SREM", "rq:workers", "x"), ("LPOP", "rq:queue:default")):
        with pytest.raises(NoPermissionError):
            exporter.execute_command(*command)
    with pytest.raises(NoPermissionError):
        exporter.eval("return 1", 0)


def test_a_script_may_not_touch_other_keys(as_role: Callable[[str], Redis]) -> None:
    for role in ("producer", "worker"):
        with pytest.raises(RedisError, match=r"permission|ACL|can't access"):
            as_role(role).eval("return redis.call('GET', 'other')", 0)


def test_a_job_travels_with_the_least_rights(as_role: Callable[[str], Redis]) -> None:
    """RQ's own queue as producer, RQ's own worker as worker: plain, bulk, unique, scheduled, failed, requeued."""
    producer, worker = as_role("producer"), as_role("worker")
    queue = Queue("short-running", connection=producer)
    plain = queue.enqueue("operator.add", 1, 2)
    bulk = queue.enqueue_many([Queue.prepare_data("operator.add", (n, n)) for n in range(3)])
    unique = queue.enqueue("operator.add", 5, 5, job_id="only", unique=True)
    failing = queue.enqueue("operator.truediv", 1, 0)
    dependent = queue.enqueue("operator.add", 7, 7, depends_on=plain)

    process = SimpleWorker([Queue(name, connection=worker) for name in ("short-running", "default")], connection=worker)
    process.work(burst=True, with_scheduler=False)

    def value(job: Job) -> object:
        return Job.fetch(job.id, connection=producer).return_value()

    assert value(plain) == 3
    assert [value(job) for job in bulk] == [0, 2, 4]
    assert value(unique) == 10
    assert value(dependent) == 14
    assert Job.fetch(failing.id, connection=producer).get_status() == "failed"
    assert queue.failed_job_registry.requeue(failing.id).get_status() == "queued"
    send_stop_job_command(producer, failing.id)
    queue.empty()
    assert len(queue) == 0
    assert as_role("exporter").smembers("rq:queues") == {b"rq:queue:short-running"}
    assert Worker.all(connection=producer) == []


def test_an_idle_worker_waits_and_is_woken(as_role: Callable[[str], Redis]) -> None:
    """BLMOVE, pub/sub, CLIENT UNBLOCK, streams and EVALSHA: what the worker's own scripts use."""
    worker = as_role("worker")
    assert worker.blmove("rq:queue:a", "rq:queue:a:intermediate", 0.01, "RIGHT", "LEFT") is None
    worker.client_setname("rqstack-worker")
    assert worker.client_unblock(worker.client_id()) == 0
    worker.xadd("rqstack:events", {"a": "b"})
    assert worker.xread({"rqstack:events": "0"}, count=1, block=1)
    listener = worker.pubsub()
    listener.subscribe("rq:pubsub:w1")
    listener.get_message(timeout=1)
    as_role("producer").publish("rq:pubsub:w1", "stop")
    message = listener.get_message(timeout=5)
    assert message is not None
    assert message["data"] == b"stop"
    other = worker.pubsub()
    other.subscribe("other")
    with pytest.raises(NoPermissionError):
        other.get_message(timeout=5)
    script = worker.register_script("return redis.call('TIME')[1] and redis.call('RPUSH', KEYS[1], ARGV[1])")
    assert script(keys=["rq:queue:a"], args=["x"]) == 1
    scheduled = as_role("producer").pipeline()
    scheduled.zadd("rq:scheduled:a", {"j": 1})
    scheduled.execute()


def test_what_a_transaction_wrote_outlives_a_restart(tmp_path: Path) -> None:
    """Redis reads its append-only file as the default user, and drops the transactions which that user may not do."""
    for server in redis_binaries():
        folder = tmp_path / ("lite" if "lite" in server else "own")
        folder.mkdir()
        (folder / "users.acl").write_text(users_acl(PASSWORDS))
        number = free_port()
        command = [server, "--port", str(number), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        command += ["--appendonly", "yes", "--aclfile", str(folder / "users.acl")]
        ids: list[str] = []
        for start in range(2):
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
            try:
                until_redis_answers(user("admin", number), process)
                queue = Queue("short-running", connection=user("producer", number))
                if start == 0:
                    ids = [job.id for job in queue.enqueue_many([Queue.prepare_data("operator.add", (1, 2))] * 3)]
                    ids.append(queue.enqueue("operator.add", 1, 2).id)
                assert queue.job_ids == ids
                assert [Job.fetch(each, connection=queue.connection).args for each in ids] == [(1, 2)] * 4
            finally:
                process.terminate()
                process.communicate()
