"""Lines of the cron table: their ids, versions, and what is refused when they are declared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rq.job import JOB_ID_PATTERN, Job, Retry

from rqstack import task
from rqstack.errors import InvalidJob
from rqstack.registry.code_version import code_version
from rqstack.registry.retries import make_retry
from rqstack.registry.timetable import Cron, Interval
from rqstack.scheduling import job_scheduler, schedule
from rqstack.scheduling.cron_declarations import collect_declarations
from rqstack.scheduling.entries import Entry, arguments_text, entry_id
from rqstack.scheduling.job_scheduler import _backoff
from rqstack.settings import Settings
from support.git import git


@task
def add(a: int, b: int = 0) -> int:
    return a + b


def plain() -> None: ...


def entry(**changes: object) -> Entry:
    given: dict[str, object] = {
        "id": "x",
        "name": "n",
        "task": "m.f",
        "timetable": Cron("* * * * *"),
        "queue": "default",
        "template": {"data": b"1"},
    }
    return Entry(**(given | changes))  # type: ignore[arg-type]


@given(st.text(max_size=60), st.integers(0, 4_000_000_000))
def test_job_ids_are_rq_ids_and_say_when(name: str, instant: int) -> None:
    made = entry(id=entry_id(name or None, "m.f", Cron("* * * * *"), "[]"))
    job_id = made.job_id(instant)
    assert JOB_ID_PATTERN.fullmatch(job_id)
    assert job_id.endswith(datetime.fromtimestamp(instant, UTC).strftime("-%Y%m%dT%H%M%SZ"))


def test_an_id_stands_for_a_name_or_for_task_times_and_arguments() -> None:
    hourly, daily = Cron("@hourly"), Cron("@daily")
    assert entry_id("n", "m.f", hourly, "1") == entry_id("n", "m.g", daily, "2")
    ids = [
        entry_id(None, "m.f", hourly, "1"),
        entry_id(None, "m.f", hourly, "2"),
        entry_id(None, "m.f", daily, "1"),
        entry_id(None, "m.f", Cron("@hourly", "Asia/Kolkata"), "1"),
        entry_id(None, "m.g", hourly, "1"),
        entry_id(None, "m.f", Interval(3600), "1"),
    ]
    assert len(set(ids)) == len(ids)


def test_a_version_stands_for_all_that_matters() -> None:
    same = entry().version
    assert entry().version == same
    assert entry(source="declared").version == same
    others = [
        entry(queue="q"),
        entry(misfire_grace=1),
        entry(description="d"),
        entry(timetable=Cron("* * * * *", "Asia/Kolkata")),
        entry(template={"data": b"2"}),
    ]
    assert same not in {other.version for other in others}


def test_arguments_that_are_the_same_text_everywhere() -> None:
    assert arguments_text((1, "a"), {"b": None, "a": [1]}) == arguments_text([1, "a"], {"a": [1], "b": None})
    assert arguments_text(({1},), {}) is None
    assert arguments_text((), {"when": datetime.now(UTC)}) is None


def test_schedule_refuses_at_declaration() -> None:
    for arguments, reason in [
        ({"cron": "61 * * * *"}, "61"),
        ({}, "cron= or every="),
        ({"cron": "@daily", "every": 5}, "cron= or every="),
        ({"every": -5}, "-5"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, "Mars"),
        ({"cron": "@daily", "misfire_grace": -1}, "misfire_grace"),
        ({"cron": "@daily", "retries": -1}, "retries"),
    ]:
        with pytest.raises(ValueError, match=reason):
            schedule(add, args=(1,), **arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidJob, match="missing a required argument"):
        schedule(add, "@daily")
    with pytest.raises(InvalidJob, match="not a task"):
        schedule(plain, "@daily")


def test_schedule_adds_only_while_declarations_are_collected() -> None:
    schedule(add, "@daily", args=(1,))
    with collect_declarations() as declarations:
        schedule(add, "@daily", args=(1,), name="one", queue="q", retries=2)
        schedule(add, every=timedelta(minutes=5), args=(2,))
        job_scheduler(add, function_args=(3,), cron="*/5 * * * *")
    schedule(add, "@daily", args=(4,))
    assert [(entry.name, entry.call.args, entry.timetable.text) for entry in declarations] == [
        ("one", (1,), "@daily"),
        (None, (2,), "every 300 s"),
        (None, (3,), "*/5 * * * *"),
    ]
    assert (declarations[0].call.options.queue, declarations[0].call.options.retries) == ("q", 2)
    assert (declarations[2].call.options.queue, declarations[2].call.options.retries) == ("short-running", 3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"cron": "* * * * *", "time_delta": timedelta(1)}, "cannot both"),
        ({"cron": "wrong"}, "cron='wrong'"),
        ({"cron": "* * * * *", "timezone": "Mars"}, "Mars"),
        ({"time_delta": timedelta(-1)}, "time_delta"),
        ({"time_delta": 5}, "time_delta=5"),
        ({"retry_intervals": -1}, "-1"),
        ({"retry_intervals": [1, -2]}, "-2"),
        ({"retry_intervals": "5"}, "retry_intervals='5'"),
        ({"retry_intervals": []}, "at least one"),
        ({"retry_backoff": -3}, "retry_backoff=-3"),
        ({"retry_backoff": 2, "retry_intervals": 5}, "cannot both"),
        ({"retry_jitter": True}, "retry_backoff"),
        ({"max_retries": -1}, "max_retries=-1"),
        ({"job_timeout": 0}, "job_timeout=0"),
        ({"cron": "* * * * *", "is_burst": True}, "is_burst"),
        ({"cron": "* * * * *", "misfire_grace": -1}, "misfire_grace"),
        ({"function_args": "abc"}, "function_args"),
    ],
)
def test_job_scheduler_says_what_is_wrong_at_the_call(arguments: dict[str, object], named: str) -> None:
    # Without a Redis: nothing is sent before all is checked.
    with pytest.raises(ValueError, match=named):
        job_scheduler(add, **({"function_args": (1,)} | arguments))  # type: ignore[arg-type]


@given(st.integers(1, 40), st.one_of(st.just(True), st.integers(1, 5_000)))
def test_backoff_is_truly_exponential(retries: int, backoff: bool | int) -> None:
    retry = make_retry(retries, _backoff(backoff, 0, False))
    base = 1 if backoff is True else backoff
    assert waits_of(retry, retries) == [min(base * 2**i, 3_600) for i in range(retries)]


@given(st.integers(1, 12), st.lists(st.integers(0, 4_000), min_size=1, max_size=12))
def test_listed_intervals_come_in_their_order_and_the_last_repeats(retries: int, waits: list[int]) -> None:
    retry = make_retry(retries, _backoff(False, waits, False))
    assert waits_of(retry, retries) == [waits[min(i, len(waits) - 1)] for i in range(retries)]


@given(st.integers(1, 12), st.integers(1, 1_000))
def test_jitter_stays_in_the_upper_half(retries: int, base: int) -> None:
    retry = make_retry(retries, _backoff(base, 0, True))
    for i, wait in enumerate(waits_of(retry, retries)):
        full = min(base * 2**i, 3_600)
        assert full / 2 - 1 <= wait <= full


def waits_of(retry: Retry | None, retries: int) -> list[int]:
    """The waits as RQ takes them, one failure after the other."""
    assert retry is not None
    job = Job(id="x", connection=object())  # type: ignore[arg-type]
    job.retry_intervals = retry.intervals
    found = []
    for left in range(retries, 0, -1):
        job.retries_left = left
        found.append(job.get_retry_interval())
    return found


def test_the_release_changes_with_the_link_and_with_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQSTACK_HOME", str(tmp_path))
    for name in ("one", "two"):
        (tmp_path / "releases" / name).mkdir(parents=True)
    link = tmp_path / "current"
    link.symlink_to("releases/one")
    seen = [code_version(Settings(tasks_path=Path("current")))]
    other = tmp_path / "new"
    other.symlink_to("releases/two")
    other.replace(link)
    seen.append(code_version(Settings(tasks_path=Path("current"))))
    (tmp_path / "tasks").mkdir()
    settings = Settings(tasks_path=Path("tasks"))
    for message in ("first", "second"):
        if message == "first":
            git(tmp_path, "init", "-q")
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", message)
        seen.append(code_version(settings))
    git(tmp_path, "pack-refs", "--all")
    assert code_version(settings) == seen[-1]
    git(tmp_path, "checkout", "-q", "HEAD~1")
    seen.append(code_version(settings))
    assert seen[-1] == seen[-3]
    assert len(set(seen[:-1])) == len(seen) - 1
