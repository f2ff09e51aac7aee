"""A program that enqueues while a stack is changed under it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.waiting import until

PRODUCER = Path(__file__).parent / "producer_loop.py"


class Producer:
    """A program that enqueues `demo.tasks.add` all the time, and knows the settings of when it started.

    Args:
        home: The home of the stack.
        environment: Of the program.
        log: What it prints.
    """

    def __init__(self, home: Path, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(PRODUCER), "demo.tasks.add"],
                cwd=home,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def enqueued(self) -> int:
        return len(self._log.read_text().splitlines())

    def enqueue_more(self, count: int = 50) -> None:
        """Wait until it has enqueued so many more jobs."""
        before = self.enqueued()
        until(lambda: self.process.poll() is not None or self.enqueued() >= before + count, 60)
        assert self.process.poll() is None, self._log.read_text()[-2000:]

    def end(self) -> dict[str, list[object]]:
        """Stop it; returns type and value of the result of each job, by id."""
        self.process.communicate("", timeout=120)
        assert self.process.returncode == 0, self._log.read_text()[-2000:]
        *ids, outcomes = self._log.read_text().splitlines()
        found: dict[str, list[object]] = json.loads(outcomes)
        assert list(found) == ids
        return found


@contextmanager
def producing(home: Path, environment: Mapping[str, str], log: Path) -> Iterator[Producer]:
    """Run a `Producer` until the block ends."""
    producer = Producer(home, environment, log)
    try:
        yield producer
    finally:
        if producer.process.poll() is None:
            producer.process.kill()
            producer.process.communicate()
