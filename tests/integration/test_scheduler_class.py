"""`Scheduler` and `job_scheduler`: their interface, with a real Redis."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.job import Job

from rqstack import task
from rqstack.errors import BrokerUnavailable, InvalidJob
from rqstack.scheduling import Scheduler, job_scheduler
from rqstack.scheduling.constants import EVERY_FIVE_MINUTES
from rqstack.scheduling.entries import Entry

pytestmark = pytest.mark.usefixtures("redis_url")


@task(result_ttl=77)
def touch(path: str, text: str = "") -> str:
    Path(path).write_text(text)
    return text


@task
def fails() -> None:
    raise ValueError("as it should")


def no_task() -> None: ...


def test_enqueue_counts_and_clear() -> None:
    with Scheduler() as scheduler:
        jobs = [scheduler.enqueue("short-running", touch, ("x",)) for _ in range(3)]
        other = scheduler.enqueue(
            "long-running", touch, args=("x",), kwargs={"text": "t"}, job_timeout=9, at_front=True
        )
        assert scheduler.get_queue("short-running").job_ids == [job.id for job in jobs]
        assert (scheduler.queued_count("short-running"), scheduler.queued_count("long-running")) == (3, 1)
        found = scheduler.job(other.id)
        assert (found.func_name, found.args, found.kwargs, found.timeout) == (touch.name, ("x",), {"text": "t"}, 9)
        assert found.result_ttl == 77
        scheduler.clear()
        assert (scheduler.queued_count("short-running"), scheduler.queued_count("long-running")) == (0, 0)
        with pytest.raises(NoSuchJobError):
            scheduler.job(other.id)


def test_enqueue_in_and_scheduled_jobs() -> None:
    with Scheduler() as scheduler:
        late = scheduler.enqueue_in("short-running", timedelta(hours=2), touch, ("x",), retry=None)
        soon = scheduler.enqueue_in("short-running", timedelta(hours=1), touch, ("x",))
        other = scheduler.enqueue_in("long-running", timedelta(hours=1), touch, ("x",))
        assert [job.id for job in scheduler.scheduled_jobs("short-running")] == [soon.id, late.id]
        assert {job.id for job in scheduler.scheduled_jobs()} == {late.id, soon.id, other.id}
        assert (scheduler.scheduled_count("short-running"), scheduler.queued_count("short-running")) == (2, 0)
        with pytest.raises(ValueError, match="time_delta"):
            scheduler.enqueue_in("short-running", timedelta(seconds=-1), touch, ("x",))
        assert scheduler.purge("short-running", "scheduled") == 0
        assert [job.id for job in scheduler.scheduled_jobs()] == [other.id]
        assert not Job.exists(late.id, connection=scheduler.connection)


def test_synchronous_mode_runs_here_and_now(tmp_path: Path) -> None:
    with Scheduler(is_async=False) as scheduler:
        job = scheduler.enqueue("short-running", touch, (str(tmp_path / "f"), "now"))
        assert (tmp_path / "f").read_text() == "now"
        assert (job.get_status(), job.return_value()) == ("finished", "now")
        assert scheduler.enqueue("short-running", fails).get_status() == "failed"
        assert scheduler.failed_count("short-running") == 1
        assert scheduler.enqueue_in("short-running", timedelta(hours=1), touch, ("x",)).get_status() == "scheduled"


def test_work_runs_what_waits_and_what_is_due(tmp_path: Path) -> None:
    with Scheduler("burst-no-fork") as scheduler:
        scheduler.enqueue("short-running", touch, (str(tmp_path / "f"), "a"))
        scheduler.enqueue("long-running", fails)
        later = scheduler.enqueue_in("short-running", timedelta(0), touch, (str(tmp_path / "g"), "b"))
        assert scheduler.work("short-running", "long-running", with_scheduler=True)
        assert ((tmp_path / "f").read_text(), (tmp_path / "g").read_text()) == ("a", "b")
        assert later.get_status() == "finished"
        assert not scheduler.work("short-running")
        assert scheduler.failed_count("long-running") == 1
        assert scheduler.purge("long-running", "failed") == 0
        with pytest.raises(ValueError, match="name of a queue"):
            scheduler.work()


def test_purge_of_many_and_of_a_wrong_state() -> None:
    with Scheduler() as scheduler:
        for _ in range(5):
            scheduler.enqueue("short-running", touch, ("x",))
        assert scheduler.purge("short-running") == 0
        assert scheduler.connection.keys("rq:job:*") == []
        for number in range(1_100):
            scheduler.enqueue_in("short-running", timedelta(hours=1), touch, ("x",), job_id=f"j{number}")
        assert scheduler.purge("short-running", "scheduled") == 0
        assert scheduler.connection.keys("rq:job:*") == []
        for state in ("failed", "scheduled"):
            scheduler.connection.zadd(f"rq:{state}:short-running", {"expired": time.time() + 60})
            assert scheduler.purge("short-running", state) == 0
        with pytest.raises(ValueError, match="queue_state='done'"):
            scheduler.purge("short-running", "done")  # type: ignore[arg-type]


def test_cron_lines_are_made_replaced_and_cancelled() -> None:
    with Scheduler() as scheduler:
        first = scheduler.cron("short-running", EVERY_FIVE_MINUTES, touch, ("x",), description="touches")
        again = scheduler.cron("short-running", EVERY_FIVE_MINUTES, touch, ("x",), description="touches")
        assert first.id == again.id
        other = scheduler.cron("short-running", EVERY_FIVE_MINUTES, touch, ("y",))
        interval = scheduler.cron("long-running", None, touch, ("x",), every=timedelta(minutes=90), name="ninety")
        assert scheduler.cron_job_count() == 3
        lines = {entry.id: (entry, status) for entry, status in scheduler.cron_jobs()}
        assert lines.keys() == {first.id, other.id, interval.id}
        assert (lines[first.id][0].description, lines[interval.id][0].name) == ("touches", "ninety")
        assert 0 < lines[first.id][1].next - datetime.now(UTC).timestamp() <= 300
        assert scheduler.cancel_cron_jobs() == 0
        assert scheduler.cron_job_count() == 0


def test_cancelling_keeps_what_is_declared_unless_told() -> None:
    with Scheduler() as scheduler:
        mine = scheduler.cron("short-running", "@daily", touch, ("x",))
        declared = Entry(
            **(vars(scheduler.cron("short-running", "@hourly", touch, ("x",))) | {"source": "declared:demo"})
        )
        scheduler.table.sync([declared])
        assert set(scheduler.table.ids()) == {mine.id, declared.id}
        assert scheduler.cancel_cron_jobs() == 1
        assert scheduler.table.ids() == [declared.id]
        assert scheduler.cancel_cron_jobs(declared=True) == 0


def test_only_tasks_with_fitting_arguments() -> None:
    with Scheduler() as scheduler:
        for call in (
            lambda *given: scheduler.enqueue("q", *given),
            lambda *given: scheduler.enqueue_in("q", timedelta(1), *given),
            lambda *given: scheduler.cron("q", "@daily", *given),
        ):
            with pytest.raises(InvalidJob, match="not a task"):
                call(no_task)
            with pytest.raises(InvalidJob, match="missing a required argument"):
                call(touch)
            with pytest.raises(InvalidJob, match="cannot be stored"):
                call(touch, (lambda: 1,))
        assert scheduler.connection.keys("*") == []


def test_the_connection_is_closed_if_it_is_its_own(connection: Redis) -> None:
    with Scheduler() as scheduler:
        scheduler.queued_count("q")
        pool = scheduler.connection.connection_pool
        assert pool._available_connections
    assert all(not each.is_connected for each in pool._available_connections)
    with Scheduler(connection=connection) as scheduler:
        scheduler.queued_count("q")
    assert connection.ping()


def test_a_strategy_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="strategy='threads'"):
        Scheduler("threads")  # type: ignore[arg-type]


def test_job_scheduler_enqueues() -> None:
    job = job_scheduler(touch, ["x"], {"text": "t"}, description="d")
    assert isinstance(job, Job)
    with Scheduler() as scheduler:
        found = scheduler.job(job.id)
        assert (found.origin, found.args, found.kwargs, found.timeout) == ("short-running", ("x",), {"text": "t"}, 180)
        assert (found.retries_left, found.retry_intervals, found.description) == (3, [0], "d")
        none = scheduler.job(job_scheduler(touch, ["x"], max_retries=None).id)
        assert none.retries_left is None
        backoff = scheduler.job(job_scheduler(touch, ["x"], max_retries=5, retry_backoff=True).id)
        assert backoff.retry_intervals == [1, 2, 4, 8, 16]
        backoff = scheduler.job(job_scheduler(touch, ["x"], max_retries=4, retry_backoff=10).id)
        assert backoff.retry_intervals == [10, 20, 40, 80]
        listed = scheduler.job(job_scheduler(touch, ["x"], retry_intervals=[30, 60]).id)
        assert listed.retry_intervals == [30, 60, 60]
        assert scheduler.queued_count("short-running") == 5


def test_job_scheduler_delays_and_repeats() -> None:
    delayed = job_scheduler(touch, ["x"], queue_name="long-running", time_delta=timedelta(hours=3), retry_backoff=True)
    entry = job_scheduler(
        touch,
        ["x"],
        queue_name="long-running",
        cron="*/5 * * * *",
        max_retries=4,
        retry_backoff=10,
        job_timeout=33,
        description="often",
        timezone="Europe/London",
    )
    assert isinstance(delayed, Job)
    assert isinstance(entry, Entry)
    with Scheduler() as scheduler:
        (found,) = scheduler.scheduled_jobs()
        assert (found.id, found.retry_intervals, found.retries_left) == (delayed.id, [1, 2, 4], 3)
        ((line, status),) = scheduler.cron_jobs()
        assert (line.id, line.timetable.zone) == (entry.id, "Europe/London")
        (job_id,) = scheduler.table.fire_due(status.next)
        job = scheduler.job(job_id)
        assert (job.origin, job.timeout, job.description) == ("long-running", 33, "often")
        assert (job.retries_left, job.retry_intervals) == (4, [10, 20, 40, 80])


def test_job_scheduler_burst_runs_it_before_it_returns(tmp_path: Path) -> None:
    job = job_scheduler(touch, [str(tmp_path / "f"), "burst"], is_burst=True)
    assert isinstance(job, Job)
    assert (tmp_path / "f").read_text() == "burst"
    assert job.get_status() == "finished"


def test_without_redis_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from rqstack.settings import get_settings

    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    with pytest.raises(BrokerUnavailable):
        job_scheduler(touch, ["x"])
