"""The cron table in a real Redis, under a controlled clock: months of firings, several schedulers, crashes anywhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.job import Job

from rqstack import task
from rqstack.registry.timetable import Cron, Interval, Timetable
from rqstack.scheduling.entries import CATCH_UP, DECLARED, RUN_TIME, Entry
from rqstack.scheduling.jobs import make_call, make_entry
from rqstack.scheduling.table import CronTable
from rqstack.transport import keys

DAY = 86_400


@task
def add(a: int, b: int = 0) -> int:
    return a + b


class Crash(Exception):
    """The process is killed here."""


class CrashingRedis(Redis):
    """A client whose process may be killed before, within or after each thing it sends, or overtaken by another."""

    chance = 0.0
    random = random.Random(0)
    overtaken: Callable[[], object] | None = None

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        owner = self

        class Crashing(Pipeline):
            def execute(self, raise_on_error: bool = True) -> list[Any]:
                owner.meanwhile()
                draw = owner.random.random()
                if draw < owner.chance:
                    if not self.transaction and self.command_stack:
                        # Some of the commands had left when it was killed.
                        self.command_stack = self.command_stack[: owner.random.randrange(len(self.command_stack) + 1)]
                    elif draw < owner.chance / 2:
                        raise Crash
                    super().execute(raise_on_error)
                    raise Crash
                return super().execute(raise_on_error)

        return Crashing(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.random.random() < self.chance:
            raise Crash
        return super().execute_command(*args, **options)

    def meanwhile(self) -> None:
        """Another scheduler does its work between this one's look and its act."""
        if self.overtaken is not None and self.random.random() < 0.3:
            overtaken, self.overtaken = self.overtaken, None
            try:
                overtaken()
            finally:
                self.overtaken = overtaken


def line(
    connection: Redis, timetable: Timetable, *, name: str | None = None, grace: float | None = None, **options: Any
) -> Entry:
    source = options.pop("source", DECLARED)
    call = make_call(add, options.pop("args", (1,)), {}, options)
    return make_entry(call, timetable, source=source, name=name, misfire_grace=grace, connection=connection)


def queued(connection: Redis, name: str = "default") -> list[str]:
    return [raw.decode() for raw in connection.lrange(f"rq:queue:{name}", 0, -1)]


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def expected(entry: Entry, start: int, end: int) -> list[str]:
    found, instant = [], start
    while (instant := entry.timetable.next_after(instant)) <= end:
        found.append(entry.job_id(instant))
    return found


SELDOM = ("0 */6 * * *", "30 1 * * *", "0,30 2 * * *", "15 */8 * * *", "0 0 * * *", 40_000)
OFTEN = ("*/20 * * * *", "30 1 * * *", "0,30 2 * * *", "15 * * * *", "0 0 * * *", 7_000)


@pytest.mark.parametrize(
    ("start", "days", "times"),
    [
        ("2026-02-20", 60, SELDOM),
        ("2026-09-15", 60, SELDOM),
        pytest.param("2026-02-20", 60, OFTEN, marks=pytest.mark.slow),
        pytest.param("2026-09-15", 60, OFTEN, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(600)
def test_months_of_firings_are_each_exactly_once(
    connection: Redis, start: str, days: int, times: tuple[Any, ...]
) -> None:
    """Three schedulers with their own delays, killed and overtaken at random, over a change of clocks. Finished jobs
    are deleted at random, as with result_ttl=0, so that no job id protects a late scheduler."""
    draw = random.Random(start)
    begin = at(start)
    end = begin + days * DAY
    lines = [
        line(connection, Cron(times[0], "Europe/London"), name="often"),
        line(connection, Cron(times[1], "Europe/London"), name="in the gap", queue="short-running"),
        line(connection, Cron(times[2], "America/New_York"), name="in the other gap"),
        line(connection, Cron(times[3], "Australia/Lord_Howe"), name="hourly", queue="long-running"),
        line(connection, Cron(times[4], "Africa/Cairo"), name="midnight", at_front=True),
        line(connection, Interval(times[5]), name="interval"),
    ]
    schedulers = []
    for _ in range(3):
        client = CrashingRedis(connection_pool=connection.connection_pool)
        client.random = draw
        schedulers.append((client, CronTable(client)))
    for position, (client, _) in enumerate(schedulers):
        other = schedulers[(position + 1) % 3][1]
        client.overtaken = lambda other=other: overtake(other)
    CronTable(connection).sync(lines, now=begin)
    for client, _ in schedulers:
        client.chance = 0.08
    clock = begin
    done: Counter[str] = Counter()
    crashes = 0

    def fire(table: CronTable) -> None:
        # Their clocks differ, also backwards.
        table.fire_due(clock - draw.choice([0, 0, 1, 20]))

    def overtake(table: CronTable) -> None:
        # The other one fires, and the job runs and is deleted, before this one acts on what it saw.
        try:
            fire(table)
        finally:
            done.update(work_off(connection))

    table = CronTable(connection)
    while clock < end + 2 * CATCH_UP:
        head = connection.zrange(keys.CRON_NEXT, 0, 0, withscores=True)[0][1]
        clock = max(clock + draw.randrange(1, 15), int(head) + draw.choice([-1, 0, 0, 3]))
        for _, scheduler in draw.sample(schedulers, draw.randrange(1, 4)):
            try:
                fire(scheduler)
            except Crash:
                crashes += 1
        if draw.random() < 0.05:
            table.sync(lines, now=clock)
        if draw.random() < 0.5:
            done.update(work_off(connection))
    table.fire_due(clock)
    done.update(work_off(connection))
    wanted = [job_id for entry in lines for job_id in expected(entry, begin, end)]
    for job_id in list(done):
        if job_id not in wanted and any(job_id in expected(entry, end, clock) for entry in lines):
            del done[job_id]
    assert crashes > 50
    assert sorted(done.elements()) == sorted(wanted)
    assert len(wanted) > 600


def work_off(connection: Redis) -> list[str]:
    found = []
    for name in ("default", "short-running", "long-running"):
        ids = queued(connection, name)
        for job_id in ids:
            fields = connection.hgetall(f"rq:job:{job_id}")
            assert fields[b"status"] == b"queued", job_id
        if ids:
            connection.delete(f"rq:queue:{name}", *(f"rq:job:{job_id}" for job_id in ids))
        found += ids
    return found


def test_a_firing_is_rqs_own_job(connection: Redis) -> None:
    table = CronTable(connection)
    entry = line(
        connection,
        Cron("0 3 * * *"),
        args=(2, 3),
        queue="q",
        retries=2,
        backoff=[5, 60],
        timeout=33,
        result_ttl=44,
        ttl=55,
        failure_ttl=66,
        description="adds",
        meta={"a": 1},
    )
    table.sync([entry], now=at("2026-05-01"))
    (job_id,) = table.fire_due(at("2026-05-01T03:00:01"))
    assert job_id == f"cron-{entry.id}-20260501T030000Z"
    queue = Queue("q", connection=connection)
    assert [queue.key for queue in Queue.all(connection=connection)] == ["rq:queue:q"]
    job = Job.fetch(job_id, connection=connection)
    assert (job.func_name, job.args, job.kwargs, job.origin) == (add.name, (2, 3), {}, "q")
    assert (job.timeout, job.result_ttl, job.ttl, job.failure_ttl) == (33, 44, 55, 66)
    assert (job.description, job.meta, job.retries_left, job.retry_intervals) == ("adds", {"a": 1}, 2, [5, 60])
    assert job.get_status() == "queued"
    assert job.enqueued_at == job.created_at == datetime(2026, 5, 1, 3, 0, 1, tzinfo=UTC)
    assert 0 < connection.ttl(job.key) <= 55
    same = queue.enqueue(
        add.name, 2, 3, job_timeout=33, result_ttl=44, ttl=55, failure_ttl=66, description="adds", meta={"a": 1}
    )
    mine, rqs = connection.hgetall(job.key), connection.hgetall(same.key)
    differing = {b"created_at", b"enqueued_at"}
    retry = {b"retries_left", b"number_of_retries", b"retry_intervals"}
    assert {k: v for k, v in mine.items() if k not in differing | retry} == {
        k: v for k, v in rqs.items() if k not in differing
    }


def test_at_front_is_honoured(connection: Redis) -> None:
    table = CronTable(connection)
    table.sync([line(connection, Cron("0 3 * * *"), at_front=True)], now=0)
    Queue("default", connection=connection).enqueue(add.name, 1, job_id="waiting")
    (job_id,) = table.fire_due(3 * 3600)
    assert queued(connection) == [job_id, "waiting"]


def test_a_firing_whose_job_exists_is_not_enqueued_again(connection: Redis) -> None:
    """State restored from an older backup, say."""
    table = CronTable(connection)
    entry = line(connection, Cron("0 3 * * *"))
    table.sync([entry], now=0)
    assert len(table.fire_due(3 * 3600)) == 1
    connection.hset(keys.CRON_STATE + entry.id, "last", 0)
    connection.zadd(keys.CRON_NEXT, {entry.id: 0})
    assert table.fire_due(3 * 3600) == []
    assert len(queued(connection)) == 1


@pytest.mark.parametrize(
    ("text", "grace", "down", "runs"),
    [
        # Seconds after midnight at which the schedulers come back; minutes whose firings then run.
        ("* * * * *", None, 45, []),
        ("* * * * *", None, 60, [1]),
        ("* * * * *", None, 119, [1]),
        ("* * * * *", None, 120, [1, 2]),
        ("* * * * *", None, 1_210, [20]),
        ("* * * * *", 5, 1_210, []),
        ("* * * * *", 10, 1_210, [20]),
        ("*/30 * * * *", None, 3_000, [30]),
        ("*/30 * * * *", 600, 3_000, []),
        ("*/30 * * * *", 1_200, 3_000, [30]),
        ("*/30 * * * *", None, 30 * 60 + 3_600 - 60, [60]),
        ("30 0 * * *", None, 30 * 60 + 3_600, [30]),
        ("30 0 * * *", None, 30 * 60 + 3_601, []),
        ("30 0 * * *", DAY, 20 * 3_600, [30]),
        ("30 0 * * *", 0, 30 * 60, [30]),
        ("30 0 * * *", 0, 30 * 60 + 1, []),
    ],
)
def test_what_was_missed_runs_once_if_it_is_young_enough(
    connection: Redis, text: str, grace: float | None, down: int, runs: list[int]
) -> None:
    table = CronTable(connection)
    midnight = at("2026-05-01")
    entry = line(connection, Cron(text), grace=grace)
    table.sync([entry], now=midnight)
    fired = table.fire_due(midnight + down)
    assert fired == [entry.job_id(midnight + 60 * minute) for minute in runs]
    assert queued(connection) == fired
    assert table.fire_due(midnight + down) == []
    # And it goes on with the next one, just so.
    following = entry.timetable.next_after(midnight + down)
    assert table.fire_due(following) == [entry.job_id(following)]


def test_skipped_firings_are_logged_once(connection: Redis, caplog: pytest.LogCaptureFixture) -> None:
    table = CronTable(connection)
    table.sync([line(connection, Cron("30 0 * * *"), name="nightly", grace=60)], now=0)
    for _ in range(2):
        assert table.fire_due(3 * 3_600) == []
    (said,) = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert "nightly" in said
    assert "1970-01-01T00:30:00Z" in said
    ((_, status),) = table.entries()
    assert (status.fired, status.skipped, status.next) == (0, 1, DAY + 30 * 60)


def test_sync_makes_the_declared_lines_the_only_ones(connection: Redis) -> None:
    table = CronTable(connection)
    one, two = line(connection, Cron("@daily"), name="one"), line(connection, Cron("@daily"), name="two")
    mine = line(connection, Cron("@daily"), name="mine", source=RUN_TIME)
    table.put(mine)
    assert table.sync([one, two]).added == [one.id, two.id]
    assert table.sync([one, two]).unchanged == [one.id, two.id]
    changed = line(connection, Cron("@hourly"), name="one")
    assert changed.id == one.id
    change = table.sync([changed])
    assert (change.changed, change.removed, change.unchanged) == ([one.id], [two.id], [])
    assert {entry.id: entry.timetable.text for entry, _ in table.entries()} == {one.id: "@hourly", mine.id: "@daily"}
    assert table.sync([], remove=False).removed == []
    assert table.sync([]).removed == [one.id]
    assert table.ids() == [mine.id]
    left = {key.decode() for key in connection.scan_iter("rqstack:cron:*")}
    assert {key for key in left if key.startswith((keys.CRON_ENTRY, keys.CRON_JOB))} == {
        keys.CRON_ENTRY + mine.id,
        keys.CRON_JOB + mine.id,
    }
    assert all(connection.ttl(key) > 0 for key in left if key.startswith(keys.CRON_STATE) and not key.endswith(mine.id))
    assert table.cancel(mine.id)
    assert not table.cancel(mine.id)
    assert len(table) == 0


def test_sync_writes_only_what_differs(connection: Redis) -> None:
    table = CronTable(connection)
    lines = [line(connection, Cron("@daily"), name=f"line {n}") for n in range(5)]
    table.sync(lines)
    before = {key: connection.dump(key) for key in connection.scan_iter("rqstack:cron:*")}
    table.sync(lines)
    assert {key: connection.dump(key) for key in connection.scan_iter("rqstack:cron:*")} == before


def test_a_line_that_goes_and_comes_back_neither_repeats_nor_loses(connection: Redis) -> None:
    """A deploy in several steps: schedulers with the old and the new code write the table by turns."""
    table = CronTable(connection)
    entry = line(connection, Cron("* * * * *"), name="n")
    start = at("2026-05-01")
    table.sync([entry], now=start)
    assert len(table.fire_due(start + 60)) == 1
    table.sync([], now=start + 61)
    table.sync([entry], now=start + 62)
    assert table.fire_due(start + 62) == []
    table.sync([], now=start + 119)
    assert table.fire_due(start + 120) == []
    table.sync([entry], now=start + 121)
    assert table.fire_due(start + 121) == [entry.job_id(start + 120)]
    assert table.fire_due(start + 122) == []


def test_new_times_of_a_line_are_not_due_in_the_past(connection: Redis) -> None:
    table = CronTable(connection)
    start = at("2026-05-01")
    table.sync([line(connection, Cron("0 9 * * *"), name="n")], now=start)
    changed = line(connection, Cron("0 1 * * *"), name="n", grace=DAY)
    table.sync([changed], now=start + 2 * 3_600)
    assert table.fire_due(start + 2 * 3_600) == []
    assert table.fire_due(start + DAY + 3_600) == [changed.job_id(start + DAY + 3_600)]
    # Another change keeps what is due.
    other = line(connection, Cron("0 1 * * *"), name="n", grace=DAY, timeout=5)
    table.sync([other], now=start + 2 * DAY + 3_601)
    assert table.fire_due(start + 2 * DAY + 3_602) == [other.job_id(start + 2 * DAY + 3_600)]


def test_a_line_of_an_unknown_zone_hinders_no_other(connection: Redis, caplog: pytest.LogCaptureFixture) -> None:
    table = CronTable(connection)
    good, bad = line(connection, Cron("@hourly"), name="good"), line(connection, Cron("@hourly"), name="bad")
    table.sync([bad, good], now=0)
    connection.hset(keys.CRON_ENTRY + bad.id, "zone", "Mars/Olympus")
    for hour in (1, 2):
        assert table.fire_due(hour * 3_600) == [good.job_id(hour * 3_600)]
    assert [entry.name for entry, _ in table.entries()] == ["good"]
    assert len([1 for record in caplog.records if "Mars/Olympus" in record.getMessage()]) == 1


def test_many_lines_that_are_due_at_once_all_fire(connection: Redis) -> None:
    table = CronTable(connection)
    lines = [line(connection, Cron("@hourly"), name=f"n{n}", args=(n,)) for n in range(450)]
    table.sync(lines, now=0)
    fired: list[str] = []
    while batch := table.fire_due(3_600):
        fired += batch
    assert sorted(fired) == sorted(entry.job_id(3_600) for entry in lines)
    assert Counter(queued(connection)) == Counter(fired)


@pytest.mark.parametrize("damage", ["template", "no template", "queue", "entry", "state", "ttl", "last", "fired"])
def test_a_damaged_entry_holds_up_no_other(connection: Redis, damage: str) -> None:
    """And a firing that could not be enqueued is not counted as done."""
    begin = at("2026-03-01")
    bad = line(connection, Cron("* * * * *"), name="bad", queue="other", ttl=50)
    good = line(connection, Cron("* * * * *"), name="good")
    table = CronTable(connection)
    table.sync([bad, good], now=begin)
    keys_of = {
        "template": keys.CRON_JOB + bad.id,
        "no template": keys.CRON_JOB + bad.id,
        "queue": "rq:queue:other",
        "entry": keys.CRON_ENTRY + bad.id,
        "state": keys.CRON_STATE + bad.id,
    }
    fields = {"ttl": keys.CRON_JOB + bad.id, "last": keys.CRON_STATE + bad.id, "fired": keys.CRON_STATE + bad.id}
    saved = None
    if (key := keys_of.get(damage)) is not None:
        saved = connection.dump(key)
        connection.delete(key)
        if damage != "no template":
            connection.set(key, "a string")
    else:
        connection.hset(fields[damage], damage, "soon")
    for _ in range(2):
        table.fire_due(begin + 60)
    assert queued(connection) == [good.job_id(begin + 60)]
    if damage == "ttl":  # the template is not what the task code has declared
        assert table.ids() == [good.id]
        return
    if key is None:
        # Where the last firing is not known, those that a restart would catch up with may come too.
        assert queued(connection, "other")[-1:] == [bad.job_id(begin + 60)]
        assert damage == "last" or len(queued(connection, "other")) == 1
        return
    if damage in ("queue", "state"):  # the key is dropped
        assert queued(connection, "other")[-1:] == [bad.job_id(begin + 60)]
        return
    assert table.ids() == [good.id], "it is dropped"
    connection.delete(key)
    if saved:
        connection.restore(key, 0, saved)
    assert connection.exists(keys.CRON_MARK) == 0
    table.sync([bad, good], now=begin)  # as the scheduler does then
    CronTable(connection).fire_due(begin + 60)
    assert queued(connection, "other") == [bad.job_id(begin + 60)]


@pytest.mark.parametrize("last", [b"1e400", b"inf", b"nan", b"99999999999", b"9" * 400, b"-1", b"soon", b"\xff"])
def test_a_last_firing_that_is_none_stops_no_entry(connection: Redis, last: bytes) -> None:
    begin = at("2026-03-01")
    entry = line(connection, Cron("* * * * *"), name="each minute")
    table = CronTable(connection)
    table.sync([entry], now=begin)
    connection.hset(keys.CRON_STATE + entry.id, "last", last)
    assert table.fire_due(begin + 60) == [entry.job_id(begin + 60)]
    assert table.fire_due(begin + 60) == []
    assert table.fire_due(begin + 120) == [entry.job_id(begin + 120)]
