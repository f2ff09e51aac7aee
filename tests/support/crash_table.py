"""The table of crash points that `test_crash_points.py` went through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FAULTS = {"cut": "cut", "away": "Redis away", "kill": "horse killed", "worker": "worker killed"}


def crash_point_table(stats: Mapping[str, Iterable[Any]]) -> list[str]:
    """The lines of the table; none if those tests did not run.

    Args:
        stats: pytest's reports, by outcome.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    total = wrong = 0
    for reports in stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "crash_points" and report.when == "call":
                    kind, outcome, fault, before, after, failures = value
                    shown = f"{before}+{after}" + (f" ({failures} wrong)" if failures else "")
                    rows.setdefault((kind, outcome), {})[fault] = shown
                    total += before + after
                    wrong += failures
    if not rows:
        return []
    lines = [f"{'kind':17} {'outcome':17} " + " ".join(f"{title:>15}" for title in FAULTS.values())]
    for (kind, outcome), counts in sorted(rows.items()):
        cells = " ".join(f"{counts.get(fault, '-'):>15}" for fault in FAULTS)
        lines.append(f"{kind:17} {outcome:17} {cells}")
    return [*lines, f"{total} crash points, {wrong} wrong"]
