"""Reads the journal that the tasks of the project `faulty` write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """One entry of the journal."""

    what: str
    job: str
    pid: int
    time: float


def read_journal(path: Path) -> list[Line]:
    """All lines, in order."""
    lines = (line.split() for line in path.read_text().splitlines())
    return [Line(what, job, int(pid), float(when)) for what, job, pid, when in lines]


def count_begun(lines: Iterable[Line]) -> Counter[str]:
    """The number of times that each job has begun."""
    return Counter(line.job for line in lines if line.what == "begin")
