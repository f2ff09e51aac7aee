"""Jobs of an attacker who can write to Redis but has no key: nothing of his runs, and the queue goes on."""

from __future__ import annotations

import subprocess
import sys
import time
import zlib
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest
from rq import Callback, Queue, RateLimit, Repeat, Retry
from rq.command import send_stop_job_command
from rq.job import Job

from support.worker_site import Site

CALLBACKS = ("success_callback_name", "failure_callback_name", "stopped_callback_name")
FORBIDDEN = "logging.critical"
"""A function that is there in every process. Called, it would log the job."""

Enqueue = Callable[[Queue, str], Job]
PLAIN: dict[str, Enqueue] = {
    "finished": lambda queue, job_id: queue.enqueue("shop.tasks.give", job_id=job_id),
    "failed": lambda queue, job_id: queue.enqueue("shop.tasks.fail", job_id=job_id),
    "retried": lambda queue, job_id: queue.enqueue("shop.tasks.fail", retry=Retry(max=1), job_id=job_id),
    "returns Retry": lambda queue, job_id: queue.enqueue("shop.tasks.once_more", job_id=job_id),
    "repeated": lambda queue, job_id: queue.enqueue("shop.tasks.give", repeat=Repeat(times=1), job_id=job_id),
    "no result": lambda queue, job_id: queue.enqueue("shop.tasks.give", result_ttl=0, job_id=job_id),
    "rate limit": lambda queue, job_id: queue.enqueue("shop.tasks.give", rate_limit=RateLimit("few", 1), job_id=job_id),
    "own callbacks": lambda queue, job_id: queue.enqueue(
        "shop.tasks.give", on_success=Callback("shop.tasks.on_success"), job_id=job_id
    ),
    "crashed": lambda queue, job_id: queue.enqueue("shop.tasks.crash", job_id=job_id),
}


def spoil(site: Site, job_id: str, name: str = FORBIDDEN) -> None:
    """Write callbacks into a job's record, as an attacker may."""
    site.redis.hset(f"rq:job:{job_id}", mapping=dict.fromkeys(CALLBACKS, name))


@pytest.mark.parametrize("kind", PLAIN)
def test_a_callback_of_the_record_is_not_called(site: Site, kind: str) -> None:
    site.add_project()
    PLAIN[kind](site.queue(), "spoilt")
    spoil(site, "spoilt")
    site.queue().enqueue("shop.tasks.give", job_id="next")
    site.worker("default", "--burst", RQSTACK_ALLOW_UNREGISTERED="", RQSTACK_MAX_CRASHES="1").wait(60)
    assert site.status("next") == "finished"
    assert "CRITICAL" not in site.output()
    if kind != "crashed":
        assert FORBIDDEN in site.output(), "the log names what was refused"


def test_a_stopped_callback_of_the_record_is_not_called(site: Site) -> None:
    site.add_project()
    site.queue().enqueue("shop.tasks.nap", 60, job_id="spoilt")
    site.worker("default")
    site.until(lambda: site.status("spoilt") == "started", "the job to start")
    spoil(site, "spoilt")
    send_stop_job_command(site.redis, "spoilt")
    site.until_ended("spoilt")
    site.queue().enqueue("shop.tasks.give", job_id="next")
    site.until_ended("next")
    assert site.status("spoilt") == "stopped"
    assert "CRITICAL" not in site.output()


def test_a_callback_of_a_job_that_an_rq_worker_has_left_is_not_called(site: Site) -> None:
    """RQ's own cleaning calls it."""
    site.add_project()
    site.queue().enqueue("shop.tasks.give", job_id="left")
    site.redis.delete("rq:queue:default")
    site.redis.hset("rq:job:left", mapping={"status": "started", **dict.fromkeys(CALLBACKS, FORBIDDEN)})
    site.redis.zadd("rq:wip:default", {"left:0123": 1, b"\xff\xfe": 1, "no execution": 2, "gone:0123": 3})
    site.worker("default")
    site.until(lambda: site.status("left") == "failed", "the cleaning")
    assert "CRITICAL" not in site.output()
    assert site.redis.zcard("rq:wip:default") == 0


def bombs() -> dict[str, bytes]:
    """Small payloads that stand for a gigabyte."""
    bomb = zlib.compress(b"\0" * (1 << 30), 9)
    return {"bomb": bomb, "bomb in a bomb": zlib.compress(bomb), "large": b"\0" * (2 << 20)}


def test_a_zlib_bomb_ends_as_a_failed_job(site: Site) -> None:
    site.add_project()
    jobs = []
    for name, payload in bombs().items():
        job = site.queue().enqueue("shop.tasks.give", job_id=name.replace(" ", "-"))
        site.redis.hset(job.key, "data", payload)
        jobs.append(job.id)
    site.queue().enqueue("shop.tasks.give", 1, job_id="next")
    site.worker("default", RQSTACK_MAX_PAYLOAD="1")
    site.until_ended("next", *jobs)
    assert site.status("next") == "finished"
    for job_id in jobs:
        assert site.status(job_id) == "failed"
    found = [site.redis.xrevrange(f"rq:results:{job_id}", count=1)[0][1][b"exc_string"] for job_id in ("bomb", "large")]
    assert [b"RQSTACK_MAX_PAYLOAD" in _text(each) for each in found] == [True, True]
    assert "the horse has ended" not in site.output()


def test_an_abandoned_job_is_settled_without_its_payload(site: Site) -> None:
    """A job whose record alone would end each process that reads it."""
    site.add_project()
    site.queue().enqueue("shop.tasks.crash", job_id="poison")
    site.worker("default", RQSTACK_MAX_CRASHES="1", RQSTACK_MAX_PAYLOAD="1")
    site.until_ended("poison")
    commands: list[Any] = []
    with site.redis.monitor() as seen:
        job = site.queue().enqueue("shop.tasks.crash", job_id="second")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            command = seen.next_command()
            commands.append(command)
            if command["command"].upper().startswith("DEL RQSTACK:CRASHES:SECOND"):
                break
    read = [each["command"].split() for each in commands if job.key in each["command"] and each["client_type"] != "lua"]
    reads = [each for each in read if each[0].upper() in ("HGET", "HMGET", "HGETALL")]
    assert [each[0].upper() for each in reads] == ["HMGET"], reads
    assert not {"data", "meta"} & set(reads[0]), reads
    assert site.status("second") == "failed"


def test_a_result_that_is_too_large_is_refused(site: Site) -> None:
    site.add_project()
    site.queue().enqueue("shop.tasks.large", 2 << 20, job_id="large")
    site.worker("default", "--burst", RQSTACK_MAX_PAYLOAD="1").wait(60)
    assert site.status("large") == "failed"
    assert "RQSTACK_MAX_PAYLOAD" in site.error("large")


def test_arguments_that_are_too_large_are_refused_by_the_producer(site: Site) -> None:
    program = "from rqstack.enqueue import get_queue; get_queue('default').enqueue('shop.tasks.give', 'x' * (2 << 20))"
    refused = subprocess.run(
        [sys.executable, "-c", program],
        env=site.environment | {"RQSTACK_MAX_PAYLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    assert "RQSTACK_MAX_PAYLOAD" in refused.stderr.splitlines()[-1]
    assert site.redis.exists("rq:queue:default") == 0


def _text(stored: bytes) -> bytes:
    return zlib.decompress(b64decode(stored))
