"""Real `rqstack scheduler` processes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from redis import Redis

from rqstack.transport import keys
from support.processes import rqstack_command, start


class SchedulerRecord(NamedTuple):
    """The heartbeat of a scheduler process."""

    hostname: str
    pid: int


def read_heartbeats(connection: Redis) -> list[SchedulerRecord]:
    """The scheduler processes that are alive."""
    found = []
    for key in sorted(connection.smembers(keys.SCHEDULERS)):
        if record := connection.hgetall(key):
            hostname = record[b"hostname"]
            assert isinstance(hostname, bytes)
            found.append(SchedulerRecord(hostname.decode(), int(record[b"pid"])))
    return found


class SchedulerProcess:
    """An `rqstack scheduler` with its log."""

    def __init__(self, log: Path, **environment: str) -> None:
        self.log = log
        self.process = start(rqstack_command("scheduler"), log, env=os.environ | environment)

    def said(self, text: str) -> bool:
        """Whether the log has this."""
        return text in self.log.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it by a signal; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(15)

    def close(self) -> None:
        """Kill it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Schedulers:
    """A number of `rqstack scheduler` processes with one log.

    Args:
        url: Of their Redis.
        log: What all say.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.environment = os.environ | {"REDIS_URL": url}
        self.log = log
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, number: int = 1) -> None:
        """Start more of them."""
        for _ in range(number):
            self.running.append(start(rqstack_command("scheduler"), self.log, env=self.environment))

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """kill -9 of one of them."""
        process.kill()
        process.wait()
        self.running.remove(process)

    def close(self) -> None:
        """kill -9 of all."""
        for process in list(self.running):
            self.kill(process)
