"""The scheduler process: fires the cron table, and moves delayed jobs. Any number may run at the same time."""

from __future__ import annotations

import logging
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

from redis import Redis
from redis.exceptions import RedisError

from rqstack.registry.code_version import code_version
from rqstack.scheduling.delayed import DelayedJobs
from rqstack.scheduling.heartbeat import Heartbeat
from rqstack.scheduling.loader import Loader
from rqstack.scheduling.scripts import PEEK
from rqstack.scheduling.table import CronTable
from rqstack.settings import Settings, get_settings
from rqstack.transport import keys
from rqstack.transport.client import connect, explain

log = logging.getLogger("rqstack.scheduler")

POLL = 1.0
"""Most seconds between two looks at Redis: what was scheduled meanwhile for sooner is seen then."""

RETRY = 0.1
"""Seconds until the next look where something is due that this process could not do: another one does it just now."""

FIRST_READING = 30.0
"""Seconds that the first firing waits for the table to be read, so that what a deploy removed does not fire again."""

LONGEST_WAIT = 5.0
"""Most seconds between two attempts to reach Redis."""

SOCKET_TIMEOUT = 5.0


class _Stop(BaseException):
    """A signal to stop. All that is done is done by scripts, whole or not at all, so it may come at any place."""


@dataclass(frozen=True)
class Look:
    """What is due next.

    Args:
        now: Redis's clock, in seconds since the epoch.
        marked: Whether the declared table is in Redis.
        firing: The next firing of the cron table, or infinity.
        delayed: For each queue the time of its first delayed job.
    """

    now: float
    marked: bool
    firing: float
    delayed: dict[str, float]

    def wait(self) -> float:
        """Seconds until something is due."""
        return max(0.0, min((self.firing, *self.delayed.values())) - self.now)


class SchedulerProcess:
    """A scheduler process.

    It keeps no state: what has fired is in Redis, decided by one script per firing. Each turn is one round trip while
    nothing is due. Signals: SIGTERM and SIGINT stop it at once, SIGHUP reads the task code again.

    Args:
        settings: Default: `get_settings()`.
        name: Its name in Redis. Default: made of host name and process id.
    """

    def __init__(self, settings: Settings | None = None, *, name: str | None = None) -> None:
        self.settings = settings or get_settings()
        self.connection: Redis = connect(self.settings, retries=1, socket_timeout=SOCKET_TIMEOUT)
        self.table = CronTable(self.connection)
        self.delayed_jobs = DelayedJobs(self.connection, self.settings.job_timeout)
        self.heartbeat = Heartbeat(max(2 * self.settings.dead_after, 3 * self.settings.heartbeat), name)
        self._loader = Loader(self.settings)
        self._code_version = ""
        self._reading_due = 0.0
        self._open_at = float("inf")
        self._next_beat = 0.0
        self._outage = 0.0
        self._backoff = 0.0

    def run(self) -> int:
        """Run until a signal stops it. Returns the exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, lambda number, frame: self.reload())
        log.info("scheduler %s started", self.heartbeat.name)
        try:
            self._code_version = code_version(self.settings)
            while True:
                time.sleep(self._turn_safely())
        except _Stop:
            pass
        finally:
            self._close()
        log.info("scheduler %s stopped", self.heartbeat.name)
        return 0

    def reload(self) -> None:
        """Read the task code again at the next turn, in a process of its own. Safe in a signal handler."""
        self._reading_due = 0.0

    def _turn_safely(self) -> float:
        """One turn. Returns the seconds until the next; a lost Redis only makes them more."""
        try:
            wait = self._turn()
        except (RedisError, OSError) as error:
            return self._away(error)
        if self._outage:
            log.warning("Redis is back after %.1f s", time.monotonic() - self._outage)
            self._outage = self._backoff = 0.0
        return wait

    def _turn(self) -> float:
        moment = time.monotonic()
        if moment >= self._next_beat:
            self.heartbeat.beat(self.connection)
            self._next_beat = moment + self.settings.heartbeat
        self._read_table()
        look = self.look()
        if not look.marked and self._reading_due == float("inf") and not self._loader.busy:
            log.warning("the cron table is gone from Redis: reading it again")
            self.reload()
            return 0.0
        firing = moment >= self._open_at and look.firing <= look.now
        done = len(self.table.fire_due(look.now)) if firing else 0
        damaged = firing and self.table.damaged > 0
        due = [queue for queue, first in look.delayed.items() if first <= look.now]
        if due:
            moved = self.delayed_jobs.move_due(look.now, due)
            done += moved.jobs + moved.dropped
            damaged = damaged or bool(moved.failed)
        if done:
            return 0.0
        if damaged:
            return POLL  # it stays due: a person must mend it
        if firing or due or self._loader.busy:
            return RETRY
        return min(POLL, look.wait()) if moment >= self._open_at else RETRY

    def look(self) -> Look:
        """Ask Redis what is due next: one round trip."""
        answer = PEEK(self.connection, [keys.CRON_NEXT, keys.CRON_MARK, keys.QUEUES], [])
        now = int(answer[0]) + int(answer[1]) / 1e6
        delayed = {queue.decode(): float(first) for queue, first in zip(answer[4::2], answer[5::2], strict=True)}
        return Look(now, bool(answer[2]), float(answer[3]) if answer[3] else float("inf"), delayed)

    def _read_table(self) -> None:
        """Begin a reading of the task code where one is due, and take the report of one that has ended."""
        if (report := self._loader.poll()) is not None:
            for problem in report.problems:
                log.error("%s", problem)
            if report.done:
                counts = ", ".join(f"{number} {kind}" for kind, number in report.counts.items())
                log.info("the cron table is read: %s", counts)
                self._open_at = 0.0
                if report.problems:
                    log.error("nothing was removed from the cron table, because of what is said above")
            elif self._reading_due == float("inf"):
                self._reading_due = time.monotonic() + LONGEST_WAIT
        current = code_version(self.settings)
        if current != self._code_version:
            log.info("the task code has changed: reading the cron table again")
            self._code_version = current
            self.reload()
        if not self._loader.busy and time.monotonic() >= self._reading_due:
            self._reading_due = float("inf")
            self._loader.start()
            if self._open_at == float("inf"):
                self._open_at = time.monotonic() + FIRST_READING

    def _away(self, error: Exception) -> float:
        moment = time.monotonic()
        if not self._outage:
            self._outage = moment
            reason = explain(error, self.settings.redis_url) if isinstance(error, RedisError) else error
            log.warning("%s Trying again until it is back.", reason)
        self._next_beat = 0.0
        self._backoff = min(max(2 * self._backoff, 0.1), LONGEST_WAIT)
        return self._backoff * random.uniform(0.5, 1)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _Stop

    def _close(self) -> None:
        self._loader.stop()
        self.connection.close()
        with suppress(RedisError, OSError):
            client = connect(self.settings, retries=0, socket_timeout=1, socket_connect_timeout=1)
            self.heartbeat.remove(client)
            client.close()
