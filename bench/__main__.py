"""`python -m bench`: measure rqstack beside other task queues, and print the table.

Passes alternate: every system once a pass, every second pass in reverse order. Ratios are taken within a pass, as
absolute figures wander with whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path

from bench.measures import FULL, MEASURES, QUICK
from bench.report import Row, table
from bench.systems import OWN, PLACE, SYSTEMS, System


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=_Plain)
    parser.add_argument(
        "--quick", action="store_true", help="one pass, fewer jobs, peers and measures: under five minutes"
    )
    parser.add_argument("--passes", type=int, help="default: 3, or 1 with --quick")
    parser.add_argument("--systems", nargs="+", choices=[system.name for system in SYSTEMS], help="default: all")
    asked_only = [name for name, measure in MEASURES.items() if measure.named_only]
    full_only = [name for name, measure in MEASURES.items() if measure.full_only]
    parser.add_argument(
        "--measures",
        nargs="+",
        choices=list(MEASURES),
        help=f"default: all but {', '.join(asked_only)}; with --quick without {', '.join(full_only)}",
    )
    given = parser.parse_args()
    if not sys.platform.startswith("linux"):
        raise SystemExit("The benchmark reads /proc, so it needs Linux.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all it started is ended
    systems = [
        system
        for system in SYSTEMS
        if (system.name in given.systems if given.systems else system.quick or not given.quick)
    ]
    for system in systems:
        system.install()
    names = given.measures or [
        name for name, measure in MEASURES.items() if not (measure.named_only or (given.quick and measure.full_only))
    ]
    rows = _measure(systems, names, given.passes or (1 if given.quick else 3), given.quick)
    print("\n" + table(rows, [system.name for system in systems]) + "\n\n" + _machine(systems))


class _Plain(argparse.RawDescriptionHelpFormatter):
    pass


def _measure(systems: list[System], names: list[str], passes: int, quick: bool) -> list[Row]:
    """Run everything; each row is also written to a file, so that nothing is lost when it is broken off."""
    results = PLACE / time.strftime("results-%Y%m%d-%H%M%S.jsonl")
    PLACE.mkdir(parents=True, exist_ok=True)
    for system in systems:
        PLACE.joinpath(f"versions-{system.adapter}.txt").write_text(system.versions())
    size = QUICK if quick else FULL
    rows: list[Row] = []
    for turn in range(passes):
        for name in names:
            for system in systems if turn % 2 == 0 else systems[::-1]:
                measure = MEASURES[name]
                if measure.systems and system.name not in measure.systems:
                    continue
                if quick and name.startswith("kill") and system.name != OWN:
                    continue  # waiting for what does not come takes most of an hour of a full run
                try:
                    numbers = measure.take(system, size)
                except Exception as error:
                    print(f"{name}: {system.name}: FAILED: {error}", file=sys.stderr, flush=True)
                    continue
                row: Row = {"measure": name, "system": system.name, "pass": turn, "numbers": numbers}
                rows.append(row)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                shown = ", ".join(f"{key} {_short(value)}" for key, value in numbers.items())
                print(f"{time.strftime('%H:%M:%S')} {name}: {system.name}: {shown}", flush=True)
    print(f"\nEach number: {results.relative_to(Path.cwd()) if results.is_relative_to(Path.cwd()) else results}")
    return rows


def _short(value: float | None) -> str:
    return "none" if value is None else f"{value:,.2f}"


def _machine(systems: list[System]) -> str:
    """What it ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    ]
    lines += [f"{system.name}: {', '.join(system.packages)}" for system in systems if system.packages]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
