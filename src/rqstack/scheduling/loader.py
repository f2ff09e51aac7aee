"""Reads the declared cron table in a process of its own, so that each reading imports the task code afresh, and the
scheduler goes on whatever that code does."""

from __future__ import annotations

import json
import os
import pickle
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

from rqstack.processes.logs import configure
from rqstack.settings import Settings

TIMEOUT = 120.0
"""Seconds after which a reading is given up: the task code hangs when it is imported."""


@dataclass
class Report:
    """What a reading did.

    Args:
        done: The table was read and written. With problems, nothing was removed from it.
        problems: One sentence for each.
        counts: Lines added, changed, unchanged and removed.
    """

    done: bool = False
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Loader:
    """Reads the declared table, one reading at a time.

    Args:
        settings: Where the task code and Redis are.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._deadline = 0.0

    @property
    def busy(self) -> bool:
        """Whether a reading is going on."""
        return self._process is not None

    def start(self) -> None:
        """Begin to read the table and write it to Redis, in a new interpreter."""
        assert not self.busy
        command = [sys.executable, "-m", __name__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process, self._received, self._deadline = process, b"", time.monotonic() + TIMEOUT
        assert process.stdin is not None
        # Secrets among them, so neither arguments nor the environment. It is less than a pipe holds.
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(pickle.dumps((sys.path, self.settings)))

    def poll(self) -> Report | None:
        """The report of a reading that has ended, or None."""
        if self._process is None:
            return None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while select.select([pipe], [], [], 0)[0]:
            part = os.read(pipe, 65536)
            if not part:
                return self._end()
            self._received += part
        if time.monotonic() > self._deadline:
            self.stop()
            return Report(problems=[f"the task code is not imported within {TIMEOUT:g} s; the table stays as it was"])
        return None

    def stop(self) -> None:
        """End a reading that is going on."""
        if self._process is not None:
            self._process.kill()
            self._end()

    def _end(self) -> Report:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdout is not None
        process.stdout.close()
        code = process.wait()
        try:
            return Report(**json.loads(self._received))
        except (ValueError, TypeError):
            return Report(problems=[f"the process that reads the cron table ended with code {code}"])


def read_table(settings: Settings) -> Report:
    """Import the task code, and make the table in Redis what it declares.

    Args:
        settings: Where the task code and Redis are.
    """
    from redis.exceptions import RedisError

    from rqstack.errors import RqstackError
    from rqstack.scheduling.cron_declarations import load
    from rqstack.scheduling.table import CronTable
    from rqstack.transport.client import connect, explain

    connection = connect(settings)
    try:
        declared = load(connection, settings)
        change = CronTable(connection).sync(declared.entries, sources=declared.sources, remove=not declared.problems)
    except RedisError as error:
        return Report(problems=[str(explain(error, settings.redis_url))])
    except RqstackError as error:
        return Report(problems=[str(error)])
    finally:
        connection.close()
    return Report(True, declared.problems, {kind: len(ids) for kind, ids in vars(change).items()})


def main() -> None:
    """The child's: settings from stdin, the report to stdout."""
    report = os.dup(1)
    # What task code prints when it is imported goes to the log.
    os.dup2(2, 1)
    path, settings = pickle.load(sys.stdin.buffer)
    sys.path[:] = path
    configure(settings)
    answer = json.dumps(vars(read_table(settings)))
    with os.fdopen(report, "w") as pipe:
        pipe.write(answer)


if __name__ == "__main__":
    main()
