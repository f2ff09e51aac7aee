"""Loads the declared cron entries in a subprocess.

Each load imports the task code afresh, and the scheduler keeps running whatever that code does.
"""

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
"""Seconds after which a load is aborted because importing the task code hangs."""


@dataclass
class LoadReport:
    """The outcome of a load.

    Args:
        loaded: The entries were written to Redis. If there are problems, none was removed.
        problems: One sentence for each.
        counts: Numbers of entries added, changed, unchanged and removed.
    """

    loaded: bool = False
    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class CronLoader:
    """Loads the declared cron entries in a subprocess, one load at a time."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._deadline = 0.0

    @property
    def is_running(self) -> bool:
        """Whether a load is running."""
        return self._process is not None

    def start(self) -> None:
        """Start a load in a new interpreter."""
        assert not self.is_running
        command = [sys.executable, "-m", __name__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process, self._received, self._deadline = process, b"", time.monotonic() + TIMEOUT
        assert process.stdin is not None
        # By pipe, because the settings hold secrets that others could read in arguments or the environment. They fit
        # into the pipe's buffer, so this does not block.
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(pickle.dumps((sys.path, self.settings)))

    def poll(self) -> LoadReport | None:
        """The report of a load that has ended, or None."""
        if self._process is None:
            return None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while select.select([pipe], [], [], 0)[0]:
            chunk = os.read(pipe, 65536)
            if not chunk:
                return self._finish()
            self._received += chunk
        if time.monotonic() > self._deadline:
            self.stop()
            return LoadReport(
                problems=[f"importing the task code took over {TIMEOUT:g} s; the cron table is unchanged"]
            )
        return None

    def stop(self) -> None:
        """Abort a running load."""
        if self._process is not None:
            self._process.kill()
            self._finish()

    def _finish(self) -> LoadReport:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdout is not None
        process.stdout.close()
        code = process.wait()
        try:
            return LoadReport(**json.loads(self._received))
        except (ValueError, TypeError):
            return LoadReport(problems=[f"the process that loads the cron entries exited with code {code}"])


def sync_table(settings: Settings) -> LoadReport:
    """Import the task code and sync the cron table in Redis with what it declares."""
    from redis.exceptions import RedisError

    from rqstack.errors import RqstackError
    from rqstack.scheduling.cron_declarations import load_declarations
    from rqstack.scheduling.table import CronTable
    from rqstack.transport.client import connect, explain

    connection = connect(settings)
    try:
        declared = load_declarations(connection, settings)
        synced = CronTable(connection).sync(declared.entries, sources=declared.sources, remove=not declared.problems)
    except RedisError as error:
        return LoadReport(problems=[str(explain(error, settings.redis_url))])
    except RqstackError as error:
        return LoadReport(problems=[str(error)])
    finally:
        connection.close()
    return LoadReport(True, declared.problems, {kind: len(ids) for kind, ids in vars(synced).items()})


def main() -> None:
    """Entry point of the subprocess: reads settings from stdin, writes the report to stdout."""
    report = os.dup(1)
    # Output of the task code must not end up in the report, so it goes to stderr.
    os.dup2(2, 1)
    path, settings = pickle.load(sys.stdin.buffer)
    sys.path[:] = path
    configure(settings)
    text = json.dumps(vars(sync_table(settings)))
    with os.fdopen(report, "w") as pipe:
        pipe.write(text)


if __name__ == "__main__":
    main()
