"""Rounds of attacks on a running stack."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_run.records import Attacker
from fuzz_run.stage import COMMANDS, KINDS, Stuck, stage

JOBS = 10
"""Hostile jobs of a round, beside the other records."""


THOROUGH = 5
"""Of so many rounds, one checks everything. The others check jobs, messages and the first pages."""


@dataclass
class Row:
    """What a fuzz run has done.

    Args:
        records: Hostile records that were written.
        keys: Patterns of keys and channels that they were written to.
        restarts: How often each kind of process was started again on top of them.
        commands: How often a command was run.
        canaries: Jobs enqueued between the attacks that have ended as they should.
        problems: What went wrong; the run ends with the first.
    """

    records: int = 0
    keys: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    commands: int = 0
    canaries: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def run(records: int, restarts: int, seed: int, folder: Path, report: Callable[[int], None] = lambda done: None) -> Row:
    """Attack a stack, and start all its processes again after each round of attacks.

    Args:
        records: How many hostile records to write at least.
        restarts: How often to start each process again.
        seed: Of all random numbers.
        folder: For logs and task code.
        report: Told after each round how many records are written.
    """
    begun = time.monotonic()
    row = Row()
    with stage(folder) as made:
        attacker = Attacker(made.client, random.Random(seed), made.marker)
        try:
            for number in range(restarts):
                wanted = records * (number + 1) // restarts
                while attacker.written < wanted:
                    attacker.write(min(50, wanted - attacker.written))
                    attacker.enqueue(JOBS // 2)
                    made.check_alive()
                thorough = number % THOROUGH == 0
                made.run_command(*COMMANDS[number % len(COMMANDS)])
                made.check_work(thorough=thorough)
                made.check_pages(thorough=thorough)
                # And on top of fresh damage, which the next processes meet first.
                attacker.write(50)
                made.restart()
                made.check_work(thorough=thorough)
                made.check_pages(thorough=thorough)
                for each in COMMANDS if thorough else ():
                    made.run_command(*each)
                report(attacker.written)
            made.check_alive()
        except Stuck as error:
            row.problems.append(str(error))
        row.records = attacker.written
        row.keys = sum(count > 0 for count in attacker.by_pattern.values())
        row.restarts = {kind: made.starts[kind] - 1 for kind in KINDS}
        row.commands = made.commands.total()
        row.canaries = made.canaries
    row.seconds = time.monotonic() - begun
    return row
