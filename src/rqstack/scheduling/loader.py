"""Reads the declared cron table in a process of its own, so that each reading imports the task code afresh, and the
scheduler goes on whatever that code does."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rqstack.settings import Settings

log = logging.getLogger("rqstack.scheduler")

TIMEOUT = 120.0
"""Seconds after which a reading is given up: the task code hangs when it is imported."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
        self._pid = 0
        self._pipe = -1
        self._received = b""
        self._deadline = 0.0

    @property
    def busy(self) -> bool:
        """Whether a reading is going on."""
        return self._pid != 0

    def start(self) -> None:
        """Begin to read the table and write it to Redis, in a child process."""
        assert not self.busy
        reading, writing = os.pipe()
        # No signal may be handled between the fork and the child's own set-up.
        old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self._pid = os.fork()
            if self._pid == 0:
                os.close(reading)
                self._child(writing, old)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        os.close(writing)
        self._pipe, self._received, self._deadline = reading, b"", time.monotonic() + TIMEOUT

    def poll(self) -> Report | None:
        """The report of a reading that has ended, or None."""
        if not self.busy:
            return None
        while select.select([self._pipe], [], [], 0)[0]:
            part = os.read(self._pipe, 65536)
            if not part:
                return self._end()
            self._received += part
        if time.monotonic() > self._deadline:
            self.stop()
            return Report(problems=[f"the task code is not imported within {TIMEOUT:g} s; the table stays as it was"])
        return None

    def stop(self) -> None:
        """End a reading that is going on."""
        if self.busy:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._end()

    def _end(self) -> Report:
        os.close(self._pipe)
        _, status = os.waitpid(self._pid, 0)
        self._pid, self._pipe = 0, -1
        try:
            return Report(**json.loads(self._received))
        except (ValueError, TypeError):
            code = os.waitstatus_to_exitcode(status)
            return Report(problems=[f"the process that reads the cron table ended with code {code}"])

    def _child(self, pipe: int, mask: Any) -> None:
        code = 1
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.write(pipe, json.dumps(vars(read_table(self.settings))).encode())
            code = 0
        except BaseException:
            log.exception("the cron table cannot be read")
        finally:
            logging.shutdown()
            os._exit(code)


def read_table(settings: Settings) -> Report:
    """Import the task code, and make the table in Redis what it declares.

    Args:
        settings: Where the task code and Redis are.
    """
    from redis.exceptions import RedisError

    from rqstack.connections import connect, explain
    from rqstack.errors import RqstackError
    from rqstack.scheduling.declared import load
    from rqstack.scheduling.table import CronTable

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
