"""`empty`, `purge`, `requeue`, `suspend`, `resume` and `info`, on what RQ itself writes, and on 300,000 entries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue, RateLimit, Worker
from rq.job import Job
from rq.registry import DeferredJobRegistry, FailedJobRegistry, ScheduledJobRegistry

from rqstack.bulk import BATCH
from support.processes import rqstack_command
from support.projects import copy_project

Run = Callable[..., "subprocess.CompletedProcess[str]"]
MANY = 300_000


@pytest.fixture
def rqstack(redis_url: str, tmp_path: Path) -> Run:
    def run(*arguments: str, program: tuple[str, ...] = ("-m", "rqstack.cli.main"), **env: str) -> Any:
        command = [sys.executable, *program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path, env=os.environ | env)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def failed_job(queue: Queue, worker_queues: list[Queue] | None = None, **options: Any) -> Job:
    """A job that a worker of RQ ran and that failed."""
    job = queue.enqueue("operator.truediv", 1, 0, **options)
    run_all([queue])
    assert job.id in FailedJobRegistry(queue=queue)
    return job


def run_all(queues: list[Queue]) -> None:
    """RQ's worker, until the queues are empty, without a fork."""
    from rq import SimpleWorker

    class Quiet(SimpleWorker):
        log_result_lifespan = False

    Quiet(queues, connection=queues[0].connection).work(burst=True, logging_level="CRITICAL")


def keys(connection: Redis) -> set[str]:
    return {key.decode() for key in connection.scan_iter("*", count=1000)}


# -- empty and purge


def test_empty_deletes_what_rq_deletes(rqstack: Run, connection: Redis) -> None:
    queue, other = Queue("default", connection=connection), Queue("other", connection=connection)
    jobs = [queue.enqueue("time.time") for _ in range(BATCH + 3)]
    dependent = queue.enqueue("time.time", depends_on=jobs[0])
    kept = other.enqueue("time.time")
    assert connection.exists(jobs[0].dependents_key)
    done = rqstack("empty", "default")
    assert (done.returncode, done.stdout) == (0, f"{BATCH + 3} queued jobs deleted from default.\n")
    assert queue.job_ids == []
    assert keys(connection) >= {kept.key, dependent.key, other.key}
    assert not {key for job in jobs for key in (job.key, job.dependents_key)} & keys(connection)
    assert other.job_ids == [kept.id]


def test_empty_all_and_json(rqstack: Run, connection: Redis) -> None:
    for name in ("a", "b"):
        Queue(name, connection=connection).enqueue("time.time")
    assert json.loads(rqstack("empty", "--all", "--json").stdout) == {
        "state": "queued",
        "deleted": {"a": 1, "b": 1, "default": 0, "long-running": 0, "short-running": 0},
    }


def test_purge_failed_deletes_jobs_and_results(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    job = failed_job(queue)
    good = queue.enqueue("time.time", result_ttl=-1)
    run_all([queue])
    waiting = queue.enqueue("time.time")
    assert rqstack("purge", "default", "--state", "failed").stdout == "1 failed job deleted from default.\n"
    assert not {key for key in keys(connection) if job.id in key}
    assert FailedJobRegistry(queue=queue).get_job_ids() == []
    assert queue.job_ids == [waiting.id]
    assert good.latest_result() is not None


def test_purge_leaves_a_job_that_has_gone_on(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    job = queue.enqueue("time.time")
    connection.zadd("rq:failed:default", {job.id: time.time() + 1000})
    assert rqstack("purge", "default", "--state", "failed").stdout == "0 failed jobs deleted from default.\n"
    assert FailedJobRegistry(queue=queue).get_job_ids() == []
    assert Job.exists(job.id, connection=connection)
    assert queue.job_ids == [job.id]


def test_purge_scheduled_and_queued(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    later, now = queue.enqueue_in(timedelta(hours=1), "time.time"), queue.enqueue("time.time")
    assert rqstack("purge", "default", "--state", "scheduled").stdout == "1 scheduled job deleted from default.\n"
    assert not Job.exists(later.id, connection=connection)
    assert Job.exists(now.id, connection=connection)
    assert rqstack("purge", "default", "--state", "queued").stdout == "1 queued job deleted from default.\n"
    assert not Job.exists(now.id, connection=connection)


def test_purge_deletes_the_others_where_a_record_is_damaged(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    first = failed_job(queue)
    connection.set("rq:job:poisoned", "a string")
    connection.zadd("rq:failed:default", {"poisoned": time.time() + 10**9})
    assert rqstack("purge", "default", "--state", "failed").stdout == "2 failed jobs deleted from default.\n"
    assert not {key for key in keys(connection) if first.id in key or "poisoned" in key}


# -- requeue


@pytest.mark.parametrize("ttl", ["", "soon", "2.5", "1e300"])
def test_requeue_loses_no_job_with_a_damaged_ttl(rqstack: Run, connection: Redis, ttl: str) -> None:
    queue = Queue("default", connection=connection)
    damaged, good = failed_job(queue), failed_job(queue)
    connection.hset(damaged.key, "ttl", ttl)
    connection.zadd("rq:failed:default", {damaged.id: 1})
    assert rqstack("requeue", "--all").stdout == "2 jobs requeued.\n"
    assert queue.job_ids == [damaged.id, good.id]


def test_requeue_goes_on_after_what_is_no_job(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    good = failed_job(queue)
    connection.set("rq:job:poisoned", "a string")
    connection.zadd("rq:failed:default", {"poisoned": 1})
    rqstack("requeue", "--all")
    assert queue.job_ids == [good.id]


def test_requeue_to_a_damaged_queue_keeps_the_job_with_the_failed(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    job = failed_job(queue)
    connection.set(queue.key, "a string")
    done = rqstack("requeue", job.id)
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert "rq:queue:default is not a list" in done.stderr
    connection.delete(queue.key)
    assert FailedJobRegistry(queue=queue).get_job_ids() == [job.id]


def test_requeue_writes_what_rq_writes(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    options: dict[str, Any] = {"meta": {"a": 1}, "description": "divide", "failure_ttl": 900}
    ours, rqs = failed_job(queue, **options), failed_job(queue, **options)
    FailedJobRegistry(queue=queue).requeue(rqs.id)
    done = rqstack("requeue", ours.id)
    assert (done.returncode, done.stdout) == (0, "1 job requeued.\n")
    assert queue.job_ids == [rqs.id, ours.id]
    assert FailedJobRegistry(queue=queue).get_job_ids() == []
    left, right = connection.hgetall(ours.key), connection.hgetall(rqs.key)
    times = {b"created_at", b"enqueued_at", b"last_heartbeat", b"worker_name"}
    assert left.keys() == right.keys()
    assert {k: v for k, v in left.items() if k not in times | {b"data"}} == {
        k: v for k, v in right.items() if k not in times | {b"data"}
    }
    assert left[b"enqueued_at"] > left[b"created_at"]
    assert abs(connection.ttl(ours.key) - connection.ttl(rqs.key)) <= 60
    fetched = Job.fetch(ours.id, connection=connection)
    assert (fetched.get_status(), fetched.started_at) == ("queued", None)
    assert fetched.latest_result().exc_string == rqs.latest_result().exc_string != ""
    run_all([queue])
    assert {ours.id, rqs.id} == set(FailedJobRegistry(queue=queue).get_job_ids())


def test_requeue_waits_for_a_slot_as_rq_does(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    jobs = [failed_job(queue, job_id=name, rate_limit=RateLimit("few", 2)) for name in ("a", "b", "c")]
    before = {key: connection.dump(key) for key in connection.scan_iter("*")}
    for job in jobs:
        FailedJobRegistry(queue=queue).requeue(job.id)

    def state() -> dict[str, object]:
        seen: dict[str, object] = {key: sorted(connection.zrange(key, 0, -1)) for key in connection.keys("rq:rl:few:*")}
        for job in jobs:
            seen[job.id] = {key: value for key, value in connection.hgetall(job.key).items() if key != b"enqueued_at"}
        return seen | {"queue": queue.job_ids, "config": connection.hgetall("rq:rl:few")}

    wanted = state()
    connection.flushall()
    for key, dump in before.items():
        connection.restore(key, 0, dump)
    assert rqstack("requeue", "a", "b", "c").stdout == "3 jobs requeued.\n"
    assert state() == wanted
    assert [job.get_status().value for job in jobs] == ["queued", "queued", "rate_limited"]
    run_all([queue])
    assert [job.get_status().value for job in jobs] == ["failed"] * 3


def test_requeue_by_queue_and_all(rqstack: Run, connection: Redis) -> None:
    a, b = Queue("default", connection=connection), Queue("long-running", connection=connection)
    first, second, third = failed_job(a), failed_job(a), failed_job(b)
    connection.delete(second.key)
    done = rqstack("requeue", "--queue", "default")
    assert done.stdout == "1 job requeued. 1 job had expired.\n"
    assert (a.job_ids, b.job_ids) == ([first.id], [])
    assert json.loads(rqstack("requeue", "--all", "--json").stdout) == {"requeued": 1, "expired": 0}
    assert b.job_ids == [third.id]


def test_requeue_of_what_has_not_failed_changes_nothing(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    failed, waiting = failed_job(queue), queue.enqueue("time.time")
    done = rqstack("requeue", failed.id, waiting.id, "nobody")
    assert done.returncode == 1
    assert f"unlike: {waiting.id} (queued), nobody (unknown). None was requeued." in done.stderr
    assert queue.job_ids == [waiting.id]
    assert failed.id in FailedJobRegistry(queue=queue)


@pytest.mark.parametrize(
    "arguments", [["empty", "defualt"], ["purge", "defualt", "--state", "failed"], ["requeue", "-q", "defualt"]]
)
def test_an_unknown_queue(rqstack: Run, arguments: list[str]) -> None:
    done = rqstack(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no queue is named 'defualt'. Did you mean default? Known are default, ")


@pytest.mark.parametrize("arguments", [["empty"], ["empty", "a", "--all"], ["requeue"], ["requeue", "x", "--all"]])
def test_wrong_use(rqstack: Run, arguments: list[str]) -> None:
    assert rqstack(*arguments).returncode == 2


def make_failed(connection: Redis, number: int) -> list[str]:
    """Many failed jobs, each as a real one is written."""
    real = failed_job(Queue("default", connection=connection))
    record = [part for pair in connection.hgetall(real.key).items() for part in pair]
    connection.flushall()
    script = """
    for i = ARGV[1], ARGV[2] do
        redis.call('HSET', 'rq:job:job-' .. i, unpack(ARGV, 4))
        redis.call('ZADD', 'rq:failed:default', ARGV[3], 'job-' .. i)
    end"""
    with connection.pipeline(transaction=False) as pipe:
        for start in range(0, number, 10_000):
            pipe.eval(script, 0, start, start + 9_999, time.time() + 10_000, *record)
        pipe.execute()
    assert connection.zcard("rq:failed:default") == number
    connection.config_resetstat()
    return [f"job-{n}" for n in range(number)]


def in_batches(connection: Redis) -> bool:
    """Whether many small scripts ran rather than one that keeps Redis from others."""
    return int(connection.info("commandstats")["cmdstat_evalsha"]["calls"]) >= MANY // BATCH


@pytest.mark.slow
def test_300_000_failed_jobs_are_put_back_then_deleted(rqstack: Run, connection: Redis) -> None:
    ids = make_failed(connection, MANY)
    assert json.loads(rqstack("requeue", "--all", "--json").stdout) == {"requeued": MANY, "expired": 0}
    assert connection.zcard("rq:failed:default") == 0
    assert {job.decode() for job in connection.lrange("rq:queue:default", 0, -1)} == set(ids)
    assert in_batches(connection)
    connection.config_resetstat()
    deleted = {"state": "queued", "deleted": {"default": MANY}}
    assert json.loads(rqstack("empty", "default", "--json").stdout) == deleted
    assert keys(connection) == {"rq:queues"}
    assert in_batches(connection)


@pytest.mark.slow
def test_300_000_failed_jobs_are_purged(rqstack: Run, connection: Redis) -> None:
    make_failed(connection, MANY)
    deleted = {"state": "failed", "deleted": {"default": MANY}}
    assert json.loads(rqstack("purge", "default", "--state", "failed", "--json").stdout) == deleted
    assert keys(connection) == set()
    assert in_batches(connection)


# -- suspend, resume, info


def test_suspend_and_resume(rqstack: Run, connection: Redis) -> None:
    assert rqstack("suspend", "--duration", "100").returncode == 0
    assert 90 < connection.ttl("rq:suspended") <= 100
    assert "Suspended for 1 min" in rqstack("info").stdout
    assert rqstack("resume").stdout == "Resumed.\n"
    assert rqstack("resume").stdout == "Workers were not suspended.\n"
    assert rqstack("suspend").returncode == 0
    assert connection.ttl("rq:suspended") == -1
    assert json.loads(rqstack("info", "--json").stdout)["suspended"] is True


def test_info_counts_each_state(rqstack: Run, connection: Redis) -> None:
    queue = Queue("default", connection=connection)
    queue.enqueue("time.time")
    run_all([queue])
    failed_job(queue)
    connection.zadd("rq:finished:default", {"expired": time.time() - 1})
    connection.zadd("rq:wip:default", {"job:execution": time.time() + 60})
    oldest = queue.enqueue("time.time")
    connection.hset(oldest.key, "enqueued_at", "2026-01-01T00:00:00.000000Z")
    queue.enqueue("time.time", depends_on=oldest)
    queue.enqueue_in(timedelta(hours=1), "time.time")
    connection.zadd("rq:ready:default", {"one": 1, "two": 2})
    for number in range(4):  # the first has the slot
        queue.enqueue("time.time", rate_limit=RateLimit("narrow", 1), at_front=False, job_id=f"narrow-{number}")
    Queue("other", connection=connection).enqueue("time.time", rate_limit=RateLimit("narrow", 1))
    connection.lrem("rq:queue:default", 1, "narrow-0")
    connection.sadd("rq:rl-keys", "empty")
    worker = Worker([queue, "other"], name="bob", connection=connection)
    worker.register_birth()
    Worker(["gone"], name="dead", connection=connection).register_birth()
    connection.delete("rq:worker:dead")

    done = rqstack("info", "--json")
    found = json.loads(done.stdout)
    (row,) = (each for each in found["queues"] if each["name"] == "default")
    assert time.time() - 1767225600 - row.pop("oldest_seconds") < 60
    assert row == {
        "name": "default",
        "queued": 1,
        "started": 1,
        "failed": 1,
        "scheduled": 1,
        "deferred": 1,
        "ready": 2,
        "rate_limited": 3,
        "finished": 1,
        "workers": 1,
    }
    assert [each["name"] for each in found["queues"]] == ["default", "long-running", "other", "short-running"]
    assert next(each for each in found["queues"] if each["name"] == "other")["rate_limited"] == 1
    assert [(each["name"], each["queues"]) for each in found["workers"]] == [("bob", ["default", "other"])]
    assert connection.sismember("rq:workers", "rq:worker:dead"), "a look changes nothing"
    assert len(DeferredJobRegistry(queue=queue)) == len(ScheduledJobRegistry(queue=queue)) == 1

    text = rqstack("info", "default", "--by-queue").stdout
    assert "bob" in text
    assert "long-running" not in text
    assert text.splitlines()[-1].startswith("1 queue, 1 job waiting, 1 worker (")


def test_info_takes_a_constant_number_of_round_trips(connection: Redis) -> None:
    from rqstack.cli.snapshot import take_snapshot

    def trips(queues: int, workers: int) -> int:
        connection.flushall()
        for n in range(queues):
            Queue(f"q{n}", connection=connection).enqueue("time.time")
        for n in range(workers):
            Worker(["q0"], name=f"w{n}", connection=connection).register_birth()
        client = Redis(port=connection.connection_pool.connection_kwargs["port"])
        sent = []
        link = client.connection_pool.get_connection()
        send = link.send_packed_command
        link.send_packed_command = lambda *a, **k: (sent.append(1), send(*a, **k))[1]  # type: ignore[method-assign]
        client.connection_pool.release(link)
        snapshot = take_snapshot(client)
        assert (len(snapshot.queues), len(snapshot.workers)) == (queues, workers)
        client.close()
        return len(sent)

    assert trips(1, 1) == trips(40, 60) <= 4


def test_watch_ends_with_ctrl_c(rqstack: Run, redis_url: str, tmp_path: Path) -> None:
    import signal

    command = rqstack_command("info", "--watch", "--json", "--interval", "0.1")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert process.stdout is not None
        for _ in range(2):
            assert json.loads(process.stdout.readline())["queues"]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err.strip()) == (130, "Stopped.")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 130, 1), ("y", 0, 0)])
def test_on_a_terminal_it_asks_first(
    redis_url: str, connection: Redis, tmp_path: Path, answer: str, code: int, left: int
) -> None:
    import pty

    queue = Queue("default", connection=connection)
    queue.enqueue("time.time")
    ours, its = pty.openpty()
    try:
        command = rqstack_command("empty", "default")
        process = subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=tmp_path, start_new_session=True)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(ours, 1000)
        assert b"Delete 1 queued job of default?" in shown
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(timeout=30) == code
    finally:
        process.kill()
        os.close(ours)
        os.close(its)
    assert len(queue) == left


# -- RQ's own commands


def test_rqs_own_commands_take_the_settings_file(
    rqstack: Run, connection: Redis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rqstack.stack.env import write_stack_env

    everything = {"commands": ["+@all"], "keys": ["*"], "channels": ["*"]}
    connection.acl_setuser("admin", enabled=True, passwords=["+p@ss/w:rd"], **everything)
    monkeypatch.setenv("REDIS_ADMIN_PASSWORD", "p@ss/w:rd")
    write_stack_env("local", {"REDIS_URL": redis_url})
    written = tmp_path / "var" / "rq_settings.py"
    assert written.stat().st_mode & 0o777 == 0o600
    copy_project("sample", tmp_path / "tasks")
    rq = ("-m", "rq.cli")
    job = Queue("default", connection=connection).enqueue("sample.functions.double", 21)
    bad = Queue("default", connection=connection).enqueue("operator.truediv", 1, 0)
    assert "default" in rqstack("info", "-c", "var.rq_settings", program=rq).stdout
    assert rqstack("suspend", "-c", "var.rq_settings", program=rq).returncode == 0
    assert connection.exists("rq:suspended")
    assert rqstack("resume", "-c", "var.rq_settings", program=rq).returncode == 0
    command = [sys.executable, *rq, "worker", "-c", "var.rq_settings", "--burst"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert job.latest_result().return_value == 42
    assert rqstack("requeue", "--queue", "default", bad.id, "-c", "var.rq_settings", program=rq).returncode == 0
    assert bad.get_status(refresh=True) == "queued"
    assert "1 jobs removed" in rqstack("empty", "default", "-c", "var.rq_settings", program=rq).stdout
    connection.acl_deluser("admin")


def test_the_workers_command_in_the_page_checks_signatures(connection: Redis, redis_url: str, tmp_path: Path) -> None:
    from rqstack.security import get_serializer
    from rqstack.settings import Settings, load
    from rqstack.stack.rq_settings import HEAD, rq_settings

    page = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
    for text in (page, HEAD):
        (line,) = [line for line in text.splitlines() if line.startswith("    rq worker ")]
        (tmp_path / "var").mkdir(exist_ok=True)
        (tmp_path / "var" / "rq_settings.py").write_text(rq_settings(load(Settings)))
        serializer = get_serializer(load(Settings, secret_key="k" * 40, accept_rq_signatures=True))
        signed = Queue("default", connection=connection, serializer=serializer).enqueue("operator.add", 1, 2)
        unsigned = Queue("default", connection=connection).enqueue("operator.add", 1, 2)
        command = [sys.executable, "-m", "rq.cli", *line.split()[1:], "--burst"]
        environment = os.environ | {"RQSTACK_SECRET_KEY": "k" * 40, "RQSTACK_ACCEPT_RQ_SIGNATURES": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert signed.get_status(refresh=True) == "finished"
        assert signed.latest_result().return_value == 3
        assert unsigned.get_status(refresh=True) == "failed"
