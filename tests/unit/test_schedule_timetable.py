"""Cron expressions and intervals, against a reference that looks at every minute of the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rqstack.registry.timetable import ALIASES, Cron, Interval, latest, parse, time_zone
from rqstack.scheduling import constants

DAY = 86_400
# A change of clocks in each: a gap and an overlap at 01:00, 02:00 or midnight, and one of half an hour.
CHANGES = [
    ("Europe/London", "2026-03-29"),
    ("Europe/London", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Africa/Cairo", "2026-04-24"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Asia/Kolkata", "2026-05-05"),
    ("UTC", "2026-05-05"),
]


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """A field of an expression, and what it means."""
    kind = draw(st.sampled_from(["all", "step", "list", "range", "range step"]))
    if kind == "all":
        return "*", set(range(low, high + 1))
    if kind == "step":
        step = draw(st.integers(2, high - low))
        return f"*/{step}", set(range(low, high + 1, step))
    if kind == "list":
        values = draw(st.sets(st.integers(low, high), min_size=1, max_size=4))
        return ",".join(map(str, sorted(values))), values
    first = draw(st.integers(low, high - 1))
    last = draw(st.integers(first + 1, high))
    if kind == "range":
        return f"{first}-{last}", set(range(first, last + 1))
    step = draw(st.integers(1, last - first))
    return f"{first}-{last}/{step}", set(range(first, last + 1, step))


def reference(hours: set[int], minutes: set[int], zone: ZoneInfo, start: int, end: int) -> list[int]:
    """The firings in (start, end], minute by minute."""

    def matches(wall: datetime) -> bool:
        return wall.hour in hours and wall.minute in minutes

    every_hour = hours == set(range(24))
    found = []
    for instant in range(start - start % 60 + 60, end + 1, 60):
        local = datetime.fromtimestamp(instant, zone)
        before = datetime.fromtimestamp(instant - 60, zone)
        skipped = local.replace(tzinfo=None) - before.replace(tzinfo=None) - timedelta(minutes=1)
        lost = [
            before.replace(tzinfo=None) + timedelta(minutes=1 + m) for m in range(int(skipped.total_seconds() // 60))
        ]
        if (every_hour and matches(local)) or (
            not every_hour and ((matches(local) and local.fold == 0) or any(matches(wall) for wall in lost))
        ):
            found.append(instant)
    return found


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(CHANGES), fields(0, 23), fields(0, 59))
@example(("Europe/London", "2026-03-29"), ("1", {1}), ("30", {30}))
@example(("Europe/London", "2026-10-25"), ("1", {1}), ("30", {30}))
@example(("Europe/London", "2026-10-25"), ("*", set(range(24))), ("30", {30}))
@example(("Africa/Cairo", "2026-04-24"), ("0", {0}), ("0", {0}))
def test_a_day_fires_as_the_wall_clock_says(
    change: tuple[str, str], hour: tuple[str, set[int]], minute: tuple[str, set[int]]
) -> None:
    zone, day = change
    start = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) - DAY
    end = start + 3 * DAY
    cron = Cron(f"{minute[0]} {hour[0]} * * *", zone)
    found, instant = [], start
    while (instant := cron.next_after(instant)) <= end:
        found.append(instant)
    assert found == reference(hour[1], minute[1], ZoneInfo(zone), start, end)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["* * * * *", "*/7 * * * *", "30 2 * * *", "0 0 * * 1", "0 0 1 * *", "* * * * * */11", "@hourly"]),
    st.sampled_from([zone for zone, _ in CHANGES]),
    st.integers(1_700_000_000, 1_900_000_000),
    st.integers(0, 40 * DAY),
)
def test_latest_is_the_last_of_all(text: str, zone: str, end: int, length: int) -> None:
    cron = Cron(text, zone)
    after = end - length if text.count(" ") < 5 else end - length % 5_000
    instant, last = after, None
    if cron.next_after(after) - after < 3_600:
        after = instant = max(after, end - 3 * DAY)
    while (instant := cron.next_after(instant)) <= end:
        last = instant
    assert latest(cron, after, end) == last


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 10_000_000), st.integers(0, 4_000_000_000))
def test_an_interval_counts_from_the_epoch(length: int, instant: int) -> None:
    after = Interval(length).next_after(instant)
    assert instant < after <= instant + length
    assert after % length == 0


@pytest.mark.parametrize("text", ALIASES)
def test_aliases_are_expressions(text: str) -> None:
    moment = Cron(text).next_after(1_790_000_000)
    assert moment % 3_600 == 0
    assert parse(text).text == text


def test_six_fields_have_seconds_last() -> None:
    assert Cron("* * * * * */10").next_after(1_790_000_000) == 1_790_000_010
    assert Cron("0 12 * * * 30").next_after(0) == 12 * 3_600 + 30


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789*/,-LHR@ abcxyzMON#?WT", max_size=24))
def test_any_text_is_an_expression_or_a_value_error_that_names_it(text: str) -> None:
    problem = ""
    try:
        assert Cron(text).next_after(1_790_000_000) > 1_790_000_000
    except ValueError as error:
        problem = str(error)
    assert not problem or (repr(text.strip()) in problem and "\n" not in problem)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * * *", "five fields"),
        ("61 * * * *", "out of range"),
        ("0 24 * * *", "out of range"),
        ("0 0 30 2 *", "never fires"),
        ("@reboot", "no alias"),
        ("R * * * *", "at random"),
        ("H(0-5) * * * *", "at random"),
        (None, "five fields"),
        (5, "five fields"),
    ],
)
def test_wrong_expressions_are_named(text: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        Cron(text)  # type: ignore[arg-type]
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", None, 5])
def test_wrong_zones_are_named(zone: object) -> None:
    with pytest.raises(ValueError, match="time zone"):
        time_zone(zone)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, -5, 0.5, True, "x", timedelta(milliseconds=1500), timedelta(seconds=-1)])
def test_wrong_intervals_are_named(length: object) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        Interval(length)  # type: ignore[arg-type]


def test_every_constant_is_an_expression() -> None:
    texts = {name: value for name, value in vars(constants).items() if name.startswith("EVERY_")}
    assert len(texts) > 30
    assert len(set(texts.values())) == len(texts)
    for text in texts.values():
        Cron(text)
    assert Cron(constants.EVERY_ONE_AM).next_after(0) == 3_600
    assert Cron(constants.EVERY_QUARTER).next_after(0) == datetime(1970, 4, 1, tzinfo=UTC).timestamp()


def test_what_is_stored_is_read_back() -> None:
    for timetable in (Cron("*/5 1-3 * * MON", "Europe/London"), Interval(90), Cron("@daily", "Asia/Kolkata")):
        again = parse(timetable.text, timetable.zone)
        assert type(again) is type(timetable)
        assert [again.next_after(t) for t in range(0, 10 * DAY, 5_000)] == [
            timetable.next_after(t) for t in range(0, 10 * DAY, 5_000)
        ]
