"""Enqueueing over a network that fails, from threads and forks, and with what the short way must leave to RQ."""

from __future__ import annotations

import operator
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import rq
from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, OutOfMemoryError, ResponseError
from redis.retry import Retry
from rq.job import Job

from rqstack.enqueue import Queue, get_queue
from rqstack.settings import Settings, get_settings
from support.proxy import LossyProxy
from support.redis_server import RedisServer


def client_of(port: int, retries: int = 3, **options: Any) -> Redis:
    return Redis(port=port, retry=Retry(NoBackoff(), retries), **options)


def queued(connection: Redis) -> list[str]:
    return [identifier.decode() for identifier in connection.lrange("rq:queue:default", 0, -1)]


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_lost_reply_enqueues_once(connection: Redis, proxy: LossyProxy, losses: int) -> None:
    queue = Queue(connection=client_of(proxy.port))
    first = queue.enqueue("a.b")
    proxy.lose_after = [b"EVALSHA"] * losses
    job = queue.enqueue("a.b", 1)
    assert proxy.lost == losses
    assert queued(connection) == [first.id, job.id]
    assert Job.fetch(job.id, connection=connection).args == (1,)


def test_a_lost_reply_enqueues_once_although_the_id_was_there(connection: Redis, proxy: LossyProxy) -> None:
    queue = Queue(connection=client_of(proxy.port))
    queue.enqueue("a.b", job_id="mine")
    proxy.lose_after = [b"EVALSHA"]
    queue.enqueue("a.c", job_id="mine")
    assert proxy.lost == 1
    assert queued(connection) == ["mine", "mine"]  # as in RQ: enqueued twice, so listed twice
    assert Job.fetch("mine", connection=connection).func_name == "a.c"


def test_a_job_enqueued_again_is_listed_once_more(connection: Redis, proxy: LossyProxy) -> None:
    queue = Queue(connection=client_of(proxy.port))
    job = queue.enqueue("a.b")
    connection.delete("rq:queue:default")
    proxy.lose_after = [b"EVALSHA"]
    queue.enqueue_job(job)
    assert proxy.lost == 1
    assert queued(connection) == [job.id]


def test_a_connection_lost_before_the_command_loses_nothing(connection: Redis, proxy: LossyProxy) -> None:
    """The command never arrived: what is sent again must be done."""
    queue = Queue(connection=client_of(proxy.port))
    queue.enqueue("a.b", job_id="mine")
    proxy.cut()
    queue.enqueue("a.c", job_id="mine")
    assert queued(connection) == ["mine", "mine"]


@pytest.mark.parametrize("losses", [1, 3])
def test_a_lost_reply_of_a_bulk_enqueues_once(connection: Redis, proxy: LossyProxy, losses: int) -> None:
    queue = Queue(connection=client_of(proxy.port))
    proxy.lose_after = [b"EXEC"] + [b"HGET"] * (losses - 1)
    jobs = queue.enqueue_many([Queue.prepare_data("a.b", (number,)) for number in range(20)])
    assert proxy.lost == losses
    assert queued(connection) == [job.id for job in jobs]


def test_without_retries_a_lost_reply_is_an_error(connection: Redis, proxy: LossyProxy) -> None:
    queue = Queue(connection=client_of(proxy.port, retries=0))
    queue.enqueue("a.b")
    proxy.lose_after = [b"EVALSHA", b"EXEC"]
    with pytest.raises(ConnectionError):
        queue.enqueue("a.b")
    with pytest.raises(ConnectionError):
        queue.enqueue_many([Queue.prepare_data("a.b")])
    assert proxy.lost == 2
    queue.enqueue("a.b")  # the client goes on


def test_redis_that_forgot_the_script(connection: Redis) -> None:
    queue = Queue(connection=connection)
    ids = [queue.enqueue("a.b").id]
    connection.script_flush()
    ids.append(queue.enqueue("a.b").id)
    assert queued(connection) == ids


def test_redis_killed_and_back(own_redis: RedisServer) -> None:
    queue = Queue(connection=client_of(own_redis.port))
    queue.enqueue("a.b", job_id="before")
    own_redis.kill()
    with pytest.raises(ConnectionError):
        queue.enqueue("a.b", job_id="lost")
    own_redis.start()
    queue.enqueue("a.b", job_id="after")
    assert "after" in queued(queue.connection)
    assert "lost" not in queued(queue.connection)


def test_an_enqueue_is_one_round_trip(connection: Redis) -> None:
    queue = Queue(connection=client_of(connection.connection_pool.connection_kwargs["port"]))
    queue.enqueue("a.b")
    queue.enqueue("a.b", on_success=rq.Callback("a.c"))  # both scripts are loaded

    def reads(act: Callable[[], Any]) -> int:
        before = connection.info("stats")["total_reads_processed"]
        act()
        after: int = connection.info("stats")["total_reads_processed"]
        return after - before - 1  # the second INFO

    assert reads(lambda: queue.enqueue("a.b", 1, x=2)) == 1
    assert reads(lambda: queue.enqueue("a.b", job_timeout=5, retry=rq.Retry(2), on_success=rq.Callback("a.c"))) == 1
    assert reads(lambda: queue.enqueue_job(queue.create_job("a.b"))) == 1
    assert reads(lambda: queue.enqueue_many([Queue.prepare_data("a.b") for _ in range(10)])) == 1
    other = Queue("other", connection=queue.connection)
    assert reads(lambda: other.enqueue("a.b")) == 1


def test_threads_share_a_queue(connection: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_SHOW_ARGUMENTS", "1")
    get_settings.cache_clear()
    port = connection.connection_pool.connection_kwargs["port"]
    queue = Queue(connection=Redis(connection_pool=BlockingConnectionPool(port=port, max_connections=3)))
    with ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda number: queue.enqueue("a.b", number).id, range(400)))
    assert sorted(queued(connection)) == sorted(ids)
    assert {connection.hget(f"rq:job:{i}", "description") for i in ids} == {b"a.b(%d)" % n for n in range(400)}


def test_a_fork_shares_nothing_with_its_parent(connection: Redis) -> None:
    queue = Queue(connection=client_of(connection.connection_pool.connection_kwargs["port"]))
    queue.enqueue("a.b", job_id="first")
    child = os.fork()
    if not child:
        code = 1
        try:
            for number in range(50):
                queue.enqueue("a.b", job_id=f"child{number}")
            code = 0
        finally:
            os._exit(code)
    for number in range(50):
        queue.enqueue("a.b", job_id=f"parent{number}")
    assert os.waitpid(child, 0)[1] == 0
    wanted = {"first"} | {f"{who}{number}" for who in ("child", "parent") for number in range(50)}
    assert sorted(queued(connection)) == sorted(wanted)


def test_a_wrong_password_is_told(own_redis: RedisServer) -> None:
    own_redis.client().config_set("requirepass", "right")
    with pytest.raises(AuthenticationError):
        Queue(connection=client_of(own_redis.port, password="wrong")).enqueue("a.b")


def test_redis_nowhere_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    for act in (
        lambda queue: queue.enqueue("a.b"),
        lambda queue: queue.enqueue_many([Queue.prepare_data("a.b")]),
    ):
        with pytest.raises(ConnectionError):
            act(Queue(connection=client_of(port, retries=1)))


def test_a_full_redis_is_told_and_takes_nothing(own_redis: RedisServer) -> None:
    client = own_redis.client()
    client.config_set("maxmemory", "1")
    queue = Queue(connection=client)
    with pytest.raises(OutOfMemoryError):
        queue.enqueue("a.b")
    with pytest.raises(OutOfMemoryError):
        queue.enqueue_many([Queue.prepare_data("a.b") for _ in range(3)])
    client.config_set("maxmemory", "0")
    before = len(queued(client))
    assert queue.enqueue("a.b").id == queued(client)[before]


@pytest.mark.parametrize("act", [lambda queue: queue.enqueue("a.b"), lambda queue: queue.enqueue_many([D])])
def test_a_key_of_another_type_is_told(connection: Redis, act: Callable[[Queue], Any]) -> None:
    connection.set("rq:queue:default", "not a list")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        act(Queue(connection=connection))
    connection.delete("rq:queue:default")
    job = Queue(connection=connection).enqueue("a.b")
    assert queued(connection) == [job.id]


D = Queue.prepare_data("a.b")


def test_what_a_subclass_changes_is_used(connection: Redis) -> None:
    class Recording(Queue):
        pushed: list[str] = []

        def push_job_id(self, job_id: str, *args: Any, **kwargs: Any) -> None:
            self.pushed.append(job_id)
            super().push_job_id(job_id, *args, **kwargs)

    queue = Recording(connection=connection)
    jobs = [queue.enqueue("a.b"), queue.enqueue("a.b", meta={"a": 1}), *queue.enqueue_many([D])]
    jobs.append(queue.enqueue_job(queue.create_job("a.b")))
    assert queue.pushed == queued(connection) == [job.id for job in jobs]


def test_a_job_class_of_ones_own_is_used(connection: Redis) -> None:
    class Marked(Job):
        def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {**super().to_dict(*args, **kwargs), "mark": "x"}

    class Elsewhere(Job):
        redis_job_namespace_prefix = "mine:job:"

    for cls in (Marked, Elsewhere):
        queue = Queue(connection=connection, job_class=cls)
        for job in (queue.enqueue("a.b"), *queue.enqueue_many([D]), queue.enqueue_job(queue.create_job("a.b"))):
            assert isinstance(job, cls)
            assert connection.hget(job.key, "mark") == (b"x" if cls is Marked else None)
            assert cls.fetch(job.id, connection=connection).func_name == "a.b"


def test_a_caller_s_pipeline_is_left_to_the_caller(connection: Redis) -> None:
    queue = Queue(connection=connection)
    with connection.pipeline() as pipeline:
        job = queue.enqueue("a.b", pipeline=pipeline)
        jobs = queue.enqueue_many([D], pipeline=pipeline)
        assert queued(connection) == []
        pipeline.execute()
    assert queued(connection) == [job.id, jobs[0].id]


def test_a_queue_that_runs_jobs_at_once(connection: Redis) -> None:
    queue = Queue(connection=connection, is_async=False)
    assert queue.enqueue(operator.add, 1, 2).return_value() == 3
    [job] = queue.enqueue_many([Queue.prepare_data(operator.add, (2, 3))])
    assert job.return_value() == 5
    assert queued(connection) == []


def test_a_client_of_one_connection(connection: Redis) -> None:
    port = connection.connection_pool.connection_kwargs["port"]
    queue = Queue(connection=Redis(port=port, single_connection_client=True))
    ids = [queue.enqueue("a.b").id, queue.enqueue_many([D])[0].id]
    assert queued(connection) == ids


def test_get_queue_follows_the_settings(redis_url: str, connection: Redis) -> None:
    settings = Settings(redis_url=redis_url, job_timeout=33, serializer="json", secret_key=None)
    job = get_queue("default", settings=settings).enqueue("a.b", 1)
    assert queued(connection) == [job.id]
    assert job.timeout == 33
    assert get_queue("x", settings=settings).connection is get_queue("y", settings=settings).connection


def test_nothing_from_main(connection: Redis) -> None:
    def function() -> None: ...

    function.__module__ = "__main__"
    with pytest.raises(ValueError, match="__main__"):
        Queue(connection=connection).enqueue(function)
    assert connection.keys() == []
