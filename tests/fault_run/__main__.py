"""`make faults`: run many jobs of every kind under twelve kinds of faults, and print one table.

Redis writes each change to disk before it answers (appendfsync always), so nothing may be lost. A run with everysec
follows in a line of its own. The exit code is 1 if a job was lost, recorded twice or stuck.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fault_run.account import Row
from support.fleet import SETTINGS
from support.paths import PROJECTS

# What is enqueued here is signed as the workers expect it. Nothing of this machine's own settings counts.
for _name in [name for name in os.environ if name.startswith(("RQSTACK_", "REDIS_", "RQ_"))]:
    del os.environ[_name]
_home = tempfile.mkdtemp(prefix="rqstack-faults-")
os.environ |= {"RQSTACK_HOME": _home, "RQSTACK_SECRET_KEY": SETTINGS["RQSTACK_SECRET_KEY"]}
sys.path.insert(0, str(PROJECTS / "faulty"))

from fault_run.faults import EVERYSEC, KINDS, Kind  # noqa: E402
from fault_run.run import Report, run  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fault_run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=6_000, help="jobs of all kinds of faults together (default: 6000)")
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers (default: 1)")
    parser.add_argument("--only", metavar="WORDS", help="only the kinds of faults with these words in their name")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--keep", action="store_true", help="keep logs and journals, and say where")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all it started is ended
    kinds = [kind for kind in [*KINDS, EVERYSEC] if not given.only or given.only in kind.name]
    if not kinds:
        parser.error(f"no kind of fault has {given.only!r} in its name")
    each = max(given.jobs // len(KINDS), 1)
    rows: list[Row] = []
    try:
        with ExitStack() as stack:
            progress = _Progress(stack, len(kinds) * each)
            for kind in kinds:
                folder = Path(_home, kind.name.replace(" ", "-").replace(",", ""))
                rows.append(run(kind, each, given.seed, folder, progress.begin(kind)))
                progress.end(rows[-1])
    finally:
        print(_table(rows))
        if given.json:
            given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        if given.keep:
            print(f"Logs and journals: {_home}")
        else:
            shutil.rmtree(_home, ignore_errors=True)
    for row in rows:
        for line in row.details:
            print(f"{row.kind}: {line}")
    return 0 if all(row.is_clean for row in rows) else 1


class _Progress:
    """A bar on a terminal; else a line for each kind of fault."""

    def __init__(self, stack: ExitStack, total: int) -> None:
        self._total = total
        self._done = 0
        self._bar: Any = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description:30}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = stack.enter_context(Progress(*columns))
            self._task = self._bar.add_task("", total=total)

    def begin(self, kind: Kind) -> Report:
        """The function to which the run of a kind reports."""

        def report(enqueued: int, ended: int) -> None:
            if self._bar is not None:
                self._bar.update(self._task, description=kind.name, completed=self._done + ended)

        return report

    def end(self, row: Row) -> None:
        """A kind is done."""
        self._done += row.jobs
        if self._bar is None:
            print(f"{row.kind}: {row.jobs} jobs in {row.seconds:.0f} s", flush=True)


def _table(rows: list[Row]) -> str:
    head = ("fault", "jobs", "faults", "lost", "recorded twice", "stuck", "ran again", "seconds")
    cells = [
        (row.kind, row.jobs, row.faults, row.lost, row.twice, row.stuck, row.again, round(row.seconds)) for row in rows
    ]
    strict = [row for row in rows if not row.gap]
    total = [sum(line[at] for line, row in zip(cells, rows, strict=True) if not row.gap) for at in range(1, len(head))]  # type: ignore[misc]
    if len(strict) > 1:
        cells.insert(len(strict), ("all", *total))  # type: ignore[arg-type]
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    lines += [f"| {line[0]} | " + " | ".join(f"{value:,}" for value in line[1:]) + " |" for line in cells]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
