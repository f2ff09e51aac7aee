"""Webhooks: those that are signed are sent, others only to hosts that the settings name; none to private addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from rq import Queue as RqQueue
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.webhook import Webhook

from rqstack.enqueue.queue import Queue
from rqstack.security import get_serializer
from rqstack.security.webhooks import SIGNATURE
from rqstack.settings import get_settings
from support.hooks import Hooks
from support.worker_site import Site

KEY = "k" * 40


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    made = Hooks()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def keyed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site whose workers and producers have a key."""
    monkeypatch.setenv("RQSTACK_SECRET_KEY", KEY)
    get_settings.cache_clear()
    site.environment |= {"RQSTACK_SECRET_KEY": KEY, "RQSTACK_ACCEPT_RQ_SIGNATURES": "1"}
    site.add_project("shop")
    return site


def ours(site: Site) -> Queue:
    return Queue("default", connection=site.redis, serializer=get_serializer())


def theirs(site: Site) -> RqQueue:
    """RQ's own queue, whose payloads are signed, as by a producer that uses `rqstack.security.Default`."""
    return RqQueue("default", connection=site.redis, serializer=get_serializer())


def hook(hooks: Hooks, path: str, status: Any = "finished", host: str = "127.0.0.1") -> Webhook:
    return Webhook(hooks.url(path).replace("127.0.0.1", host), status, method="POST", headers={"X-Harbour": "it"})


def run(site: Site, *jobs: Job, **environment: str) -> None:
    """Work until no job is left."""
    site.run("worker", "run", "default", "--burst", **environment)
    assert {site.status(job.id) for job in jobs} <= {"finished", "failed"}


def lines(site: Site, job: Job, log: str) -> list[str]:
    return [line for line in log.splitlines() if "not sent" in line and job.id in line]


def worker_log(site: Site, *arguments: str, **environment: str) -> str:
    return site.run("worker", "run", "default", "--burst", *arguments, **environment).stderr


def test_a_signed_one_is_sent_and_an_unsigned_one_is_not(keyed: Site, hooks: Hooks) -> None:
    signed = ours(keyed).enqueue("shop.tasks.give", 1, webhooks=[hook(hooks, "signed")])
    unsigned = theirs(keyed).enqueue(
        "shop.tasks.give", 1, webhooks=[hook(hooks, "unsigned"), hook(hooks, "unsigned-too")]
    )
    failed = theirs(keyed).enqueue("shop.tasks.none", webhooks=[hook(hooks, "failed", "failed")])
    last = ours(keyed).enqueue("shop.tasks.give", 1, webhooks=[hook(hooks, "last")])
    log = worker_log(keyed)
    assert [path for path, _, _ in hooks.received] == ["/signed", "/last"]
    assert [keyed.status(job.id) for job in (signed, unsigned, failed, last)] == [
        *("finished", "finished", "failed", "finished")
    ]
    for job in (unsigned, failed):
        (line,) = lines(keyed, job, log)
        assert "127.0.0.1" in line
        assert "RQSTACK_WEBHOOK_HOSTS" in line
        assert "Traceback" not in line


def test_a_signature_holds_for_one_job_and_its_webhooks(keyed: Site, hooks: Hooks) -> None:
    queue = ours(keyed)
    first = queue.enqueue("shop.tasks.give", 1, webhooks=[hook(hooks, "good")])
    changed, moved, broken = (queue.enqueue("shop.tasks.give", 1, webhooks=[hook(hooks, "good")]) for _ in range(3))
    stored = keyed.redis.hget(changed.key, "webhooks")
    assert isinstance(stored, bytes)
    keyed.redis.hset(changed.key, "webhooks", stored.replace(b"good", b"evil"))
    keyed.redis.hset(moved.key, SIGNATURE, keyed.redis.hget(first.key, SIGNATURE) or b"")
    keyed.redis.hset(broken.key, SIGNATURE, b"\xff no hex")
    log = worker_log(keyed)
    assert [path for path, _, _ in hooks.received] == ["/good"]
    for job in (changed, moved, broken):
        assert keyed.status(job.id) == "finished"
        assert len(lines(keyed, job, log)) == 1


@pytest.mark.parametrize(
    "stored", [b"\xff", b"{", b"7", b"[7]", b'[{"url": 7}]', b"[" * 60_000, b'[{"url": "http://[", "job_status": 1}]']
)
def test_a_damaged_record_is_dropped(keyed: Site, hooks: Hooks, stored: bytes) -> None:
    job = theirs(keyed).enqueue("shop.tasks.give", 1)
    keyed.redis.hset(job.key, "webhooks", stored)
    last = ours(keyed).enqueue("shop.tasks.give", 1, webhooks=[hook(hooks, "last")])
    log = worker_log(keyed)
    assert [keyed.status(each.id) for each in (job, last)] == ["finished", "finished"]
    assert "its webhooks cannot be read, so none is sent" in log
    assert [path for path, _, _ in hooks.received] == ["/last"]


def test_unsigned_ones_go_to_hosts_that_are_named(keyed: Site, hooks: Hooks) -> None:
    keyed.environment["RQSTACK_PRIVATE_HOSTS"] = "127.0.0.0/8,localhost"
    hosts = ("127.0.0.1", "localhost")
    jobs = [theirs(keyed).enqueue("shop.tasks.give", webhooks=[hook(hooks, host, host=host)]) for host in hosts]
    run(keyed, *jobs, RQSTACK_WEBHOOK_HOSTS="localhost")
    assert [path for path, _, _ in hooks.received] == ["/localhost"]


def test_no_webhook_reaches_a_private_address(keyed: Site, hooks: Hooks) -> None:
    """Signed or not; the job has finished all the same."""
    job = ours(keyed).enqueue("shop.tasks.give", 1, webhooks=[hook(hooks, "private")])
    log = worker_log(keyed, RQSTACK_PRIVATE_HOSTS="")
    assert hooks.received == []
    assert "which is not public" in log
    assert "RQSTACK_PRIVATE_HOSTS" in log
    assert keyed.status(job.id) == "finished"


def test_where_any_code_may_run_unsigned_ones_are_sent(site: Site, hooks: Hooks) -> None:
    site.add_project("shop")
    job = site.queue().enqueue("shop.tasks.give", 1, webhooks=[hook(hooks, "plain")])
    run(site, job)
    assert [path for path, _, _ in hooks.received] == ["/plain"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_of_a_job_that_killed_its_process(keyed: Site, hooks: Hooks, is_ours: bool) -> None:
    queue = ours(keyed) if is_ours else theirs(keyed)
    job = queue.enqueue("shop.tasks.crash", webhooks=[hook(hooks, "killed", "failed")])
    log = worker_log(keyed, RQSTACK_MAX_CRASHES="1")
    assert keyed.status(job.id) == "failed"
    assert [path for path, _, _ in hooks.received] == (["/killed"] if is_ours else [])
    assert len(lines(keyed, job, log)) == (0 if is_ours else 1)


@pytest.mark.parametrize("is_ours", [True, False])
def test_of_a_job_that_a_dead_rq_worker_left(keyed: Site, hooks: Hooks, is_ours: bool) -> None:
    queue = ours(keyed) if is_ours else theirs(keyed)
    job = queue.enqueue("shop.tasks.give", webhooks=[hook(hooks, "left", "failed")])
    keyed.redis.lrem(queue.key, 1, job.id)
    job.set_status(JobStatus.STARTED)
    with keyed.redis.pipeline() as pipeline:
        execution = Execution.create(job, 60, pipeline)
        pipeline.execute()
    registry = StartedJobRegistry("default", connection=keyed.redis)
    keyed.redis.zadd(registry.key, {execution.composite_key: 1})
    keyed.worker("default")
    keyed.until(lambda: keyed.status(job.id) == "failed", "the job to be failed")
    if is_ours:
        keyed.until(lambda: hooks.received, "the webhook")
        assert [path for path, _, _ in hooks.received] == ["/left"]
    else:
        keyed.until(lambda: lines(keyed, job, keyed.output()), "the refusal")
        assert hooks.received == []


def test_each_way_of_enqueueing_signs(keyed: Site, hooks: Hooks) -> None:
    queue = ours(keyed)
    webhooks = [hook(hooks, "x")]

    class Traced(Job):
        def save(self, *args: Any, **kwargs: Any) -> None:
            super().save(*args, **kwargs)

    own = Queue("default", connection=keyed.redis, serializer=get_serializer(), job_class=Traced)
    made = Job.create("shop.tasks.give", connection=keyed.redis, serializer=get_serializer(), webhooks=webhooks)
    late = Job.create("shop.tasks.give", connection=keyed.redis, serializer=get_serializer(), webhooks=webhooks)
    first = queue.enqueue("shop.tasks.give")
    with keyed.redis.pipeline() as pipeline:
        piped = queue.enqueue("shop.tasks.give", webhooks=webhooks, pipeline=pipeline)
        pipeline.execute()
    jobs = [
        piped,
        queue.enqueue("shop.tasks.give", webhooks=webhooks),
        queue.enqueue("shop.tasks.give", webhooks=webhooks, depends_on=first),
        queue.enqueue_in(timedelta(hours=1), "shop.tasks.give", webhooks=webhooks),
        *queue.enqueue_many([Queue.prepare_data("shop.tasks.give", webhooks=webhooks)] * 2),
        queue.enqueue_job(made),
        queue.schedule_job(late, made.created_at + timedelta(hours=1)),  # type: ignore[operator]
        own.enqueue("shop.tasks.give", webhooks=webhooks),
    ]
    for job in jobs:
        stored = keyed.redis.hgetall(job.key)
        assert json.loads(stored[b"webhooks"])[0]["url"] == hooks.url("x")
        assert len(stored[SIGNATURE.encode()]) == 64, job
        keyed.job(job.id).save()
        assert keyed.redis.hgetall(job.key)[b"webhooks"] == stored[b"webhooks"], "RQ writes the same again"
