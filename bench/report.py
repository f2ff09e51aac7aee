"""The table: one line a measure, one column a system, and how rqstack compares with the best of the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.systems import OWN


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Args:
        text: What it says.
        measure: The measure.
        number: Which of its numbers.
        target: What is to be reached, for the reader.
        more_is_better: Or less.
        none: What is shown where there was no number.
    """

    text: str
    measure: str
    number: str
    target: str
    more_is_better: bool = True
    none: str = ""


def _kind(text: str, measure: str) -> tuple[Line, Line]:
    return (
        Line(f"{text}, 2 processes, executions/s", measure, "rate", "5 x rq SimpleWorker"),
        Line("the same, share of plain jobs without batches", measure, "share", "0.6"),
    )


def _mixed(text: str, measure: str) -> tuple[Line, ...]:
    return tuple(
        Line(f"{text}, {value} of the wait{without}, ms", measure, value + suffix, target, False)
        for value in ("p50", "p99")
        for without, suffix, target in (("", "", "as without batches"), (" without batches", " unbatched", ""))
    )


LINES = (
    Line("drain of no-op jobs, 2 processes, jobs/s", "drain2", "rate", "3.5 x best peer"),
    Line("the same, 8 processes", "drain8", "rate", "3.5 x best peer"),
    Line("the same without batches, 2 processes, jobs/s", "unbatched2", "rate", ""),
    Line("the same without batches, 8 processes, jobs/s", "unbatched8", "rate", ""),
    Line("Redis round trips per job, busy queue", "drain2", "round_trips", "1.0", False),
    Line("worker CPU per job, ms", "drain2", "cpu_ms", "", False),
    *_kind("jobs with a retry", "retry"),
    *_kind("jobs with a success callback", "callback"),
    *_kind("jobs with a dependent", "dependent"),
    *_kind("jobs with a concurrency limit", "limit"),
    *_kind("failing jobs", "failing"),
    Line("enqueue one by one, jobs/s", "enqueue", "one", "1.0 x best peer"),
    Line("enqueue in bulk, jobs/s", "enqueue", "bulk", "2.0 x rq"),
    Line("round trip when idle, p50 ms", "latency", "p50", "1.0 x best peer", False),
    Line("round trip when idle, p99 ms", "latency", "p99", "1.0 x best peer", False),
    Line("memory of 8 idle workers after 100 jobs, PSS MB", "idle", "memory", "0.65 x huey", False),
    Line("worker command to first job done, s", "cold", "seconds", "1.2 x best peer", False),
    Line("word count of 100 KB, 2 processes, share of the bare loop", "words", "share", "0.95"),
    Line("10 ms sleep, 8 processes (ideal 800/s), jobs/s", "sleep", "rate", "780"),
    Line("10 ms sleep, 2 processes (ideal 200/s), jobs/s", "10ms", "rate", ""),
    Line("the same, share of the rate without batches", "10ms", "share", "1.0"),
    Line("2 ms sleep, 2 processes (ideal 1,000/s), jobs/s", "2ms", "rate", ""),
    Line("the same, share of the rate without batches", "2ms", "share", "1.0"),
    *_mixed("no-op jobs beside 200 ms jobs, one by one", "mixed"),
    *_mixed("no-op jobs beside 200 ms jobs, 100 at once", "mixed-bursts"),
    Line("kill -9 of the job's process: run again after s", "kill-horse", "seconds", "1", False, "not run again"),
    Line("kill -9 of the whole worker: run again after s", "kill-worker", "seconds", "20", False, "not run again"),
    Line("CPU of 8 idle workers, %", "idle", "cpu", "0", False),
    Line("Redis commands/s of 8 idle workers", "idle", "commands", "below 20", False),
    Line("connections of 500 idle horses, 8 per supervisor, 50 queues", "connections", "connections", "5,000", False),
    Line("the same, Redis commands/s", "connections", "commands", "below 300", False),
)

Row = dict[str, Any]


def table(rows: Sequence[Row], systems: Sequence[str]) -> str:
    """The table in Markdown.

    Args:
        rows: What was measured: `measure`, `system`, `pass` and `numbers` of each.
        systems: Names of the systems, in the order of the columns.
    """
    peers = [name for name in systems if name != OWN]
    heads = ["measure", *systems, "ratio to best peer, same pass", "to reach"]
    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for line in LINES:
        if not any(row["measure"] == line.measure for row in rows):
            continue
        cells = [line.text, *(_cell(rows, line, name) for name in systems), _ratio(rows, line, peers), line.target]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _values(rows: Sequence[Row], line: Line, system: str) -> dict[int, float | None]:
    return {
        row["pass"]: row["numbers"][line.number]
        for row in rows
        if row["measure"] == line.measure and row["system"] == system and line.number in row["numbers"]
    }


def _cell(rows: Sequence[Row], line: Line, system: str) -> str:
    """The median of the passes, and the least and the most."""
    values = _values(rows, line, system)
    numbers = sorted(value for value in values.values() if value is not None)
    if not numbers:
        return line.none if values else "-"
    middle = _number(statistics.median(numbers))
    return middle if len(numbers) == 1 else f"{middle} ({_number(numbers[0])} to {_number(numbers[-1])})"


def _ratio(rows: Sequence[Row], line: Line, peers: Sequence[str]) -> str:
    """The median over the passes of rqstack's number by that of the best peer of the same pass."""
    ratios, best_names = [], []
    for turn, own in _values(rows, line, OWN).items():
        others = {peer: _values(rows, line, peer).get(turn) for peer in peers}
        found = {peer: value for peer, value in others.items() if value}
        if own is None or not found:
            continue
        best = (max if line.more_is_better else min)(found, key=lambda peer: found[peer])
        ratios.append(own / found[best])
        best_names.append(best)
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f} ({statistics.mode(best_names)})"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
