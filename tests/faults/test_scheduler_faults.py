"""Real schedulers, killed and cut off from Redis: each firing exactly once, no delayed job lost or doubled."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from rqstack.scheduling.table import CronTable
from support import waiting
from support.projects import copy_project
from support.redis_server import RedisServer
from support.schedulers import Schedulers

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def schedulers(own_redis: RedisServer, tmp_path: Path) -> Iterator[Schedulers]:
    """Processes with a cron table that has something to do each second; none is started yet."""
    copy_project("periodic", tmp_path / "tasks")
    processes = Schedulers(own_redis.url, tmp_path / "schedulers.log")
    yield processes
    processes.close()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition is true, through a Redis that is away."""
    waiting.until(condition, seconds, errors=(RedisError,), pause=0.05)


class Worker:
    """Takes jobs and deletes them at once, as with result_ttl=0: no job id is left to protect a late scheduler."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.ids: list[str] = []

    def take(self) -> None:
        for queue in ("rq:queue:default", "rq:queue:short-running"):
            with self.client.pipeline(transaction=True) as pipeline:
                pipeline.lrange(queue, 0, -1)
                pipeline.delete(queue)
                ids = pipeline.execute()[0]
            self.ids += [job_id.decode() for job_id in ids]
            if ids:
                self.client.delete(*(b"rq:job:" + job_id for job_id in ids))


def check(ids: list[str], table: CronTable) -> int:
    """Each firing between an entry's first and last is there exactly once. Returns how many."""
    total = 0
    for entry, status in table.entries():
        mine = [job_id for job_id in ids if job_id.startswith(f"cron-{entry.id}-")]
        times = sorted(
            int(datetime.strptime(job_id[-16:], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()) for job_id in mine
        )
        wanted, instant = [], times[0] - 1
        while (instant := entry.timetable.next_after(instant)) <= max(times[-1], status.last):
            wanted.append(entry.job_id(instant))
        doubled = [job_id for job_id, count in Counter(mine).items() if count > 1]
        assert doubled == []
        assert sorted(set(wanted) - set(mine)) == []
        assert sorted(mine) == sorted(wanted)
        total += len(mine)
    return total


@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_three_schedulers_one_killed_each_second(
    own_redis: RedisServer, schedulers: Schedulers, seconds: int, record_property: Callable[[str, object], None]
) -> None:
    client = own_redis.client()
    worker = Worker(client)
    draw = random.Random(seconds)
    schedulers.start(3)
    until(lambda: client.llen("rq:queue:default"))
    kills = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(draw.uniform(0.8, 1.2))
        schedulers.kill(draw.choice(schedulers.running))
        schedulers.start()
        kills += 1
        worker.take()
    reached = CronTable(client).now()
    # The last one standing catches up.
    until(lambda: worker.take() or all(status.next > reached for _, status in CronTable(client).entries()))
    schedulers.close()
    worker.take()
    assert kills >= seconds / 1.5
    fired = check(worker.ids, CronTable(client))
    assert fired > seconds * 1.5
    record_property("firings", fired)
    print(f"{fired} firings, {kills} kills")


@pytest.mark.parametrize("seconds", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_redis_outage_costs_no_firing(own_redis: RedisServer, schedulers: Schedulers, seconds: int) -> None:
    client = own_redis.client()
    # With `everysec` a Redis that is killed forgets up to two seconds: also that this test has taken a job.
    client.config_set("appendfsync", "always")
    worker = Worker(client)
    schedulers.start(2)
    until(lambda: client.llen("rq:queue:default") > 2)
    worker.take()
    own_redis.kill()
    time.sleep(seconds)
    assert [process.poll() for process in schedulers.running] == [None, None]
    own_redis.start()
    reached = CronTable(client).now() + 2
    until(lambda: worker.take() or all(status.next > reached for _, status in CronTable(client).entries()))
    until(lambda: schedulers.log.read_text().count("Redis is back") == 2)
    schedulers.close()
    worker.take()
    fired = check(worker.ids, CronTable(client))
    print(f"{fired} firings, {seconds} s without Redis")
    assert "Traceback" not in schedulers.log.read_text()


def test_delayed_jobs_with_kills_at_random(own_redis: RedisServer, schedulers: Schedulers) -> None:
    from rqstack.enqueue import get_queue

    client = own_redis.client()
    draw = random.Random(7)
    number = 5_000
    begin = datetime.now(UTC) + timedelta(seconds=2)
    queue = get_queue("bulk", connection=client)
    with client.pipeline() as pipeline:
        for n in range(number):
            when = begin + timedelta(seconds=draw.randrange(8))
            job = queue.create_job("periodic.tasks.add", args=(n,), job_id=f"delayed-{n}", status="scheduled")
            queue.schedule_job(job, when, pipeline=pipeline)
        pipeline.execute()
    schedulers.start(3)
    kills = 0

    def moved() -> bool:
        nonlocal kills
        time.sleep(draw.uniform(0.02, 0.4))
        schedulers.kill(draw.choice(schedulers.running))
        schedulers.start()
        kills += 1
        return client.zcard("rq:scheduled:bulk") == 0

    until(moved, 200)
    schedulers.close()
    ids = [job_id.decode() for job_id in client.lrange("rq:queue:bulk", 0, -1)]
    count = Counter(ids)
    assert [job_id for job_id, times in count.items() if times > 1] == []
    assert sorted(f"delayed-{n}" for n in range(number) if f"delayed-{n}" not in count) == []
    assert len(ids) == number
    with client.pipeline() as pipeline:
        for job_id in ids:
            pipeline.hget(f"rq:job:{job_id}", "status")
        assert set(pipeline.execute()) == {b"queued"}
    print(f"{number} delayed jobs, {kills} kills")
