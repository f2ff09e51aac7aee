"""The scheduler process: fires the cron table and moves delayed jobs. Any number may run at the same time."""

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

from rqstack.errors import BrokerUnavailable, IncompatibleSchema
from rqstack.processes.liveness import SCHEDULER, Liveness
from rqstack.registry.code_version import code_version
from rqstack.scheduling.cron_loader import CronLoader
from rqstack.scheduling.delayed import DelayedJobs
from rqstack.scheduling.heartbeat import Heartbeat
from rqstack.scheduling.scripts import NEXT_DUE, TRIM
from rqstack.scheduling.table import CronTable
from rqstack.settings import Settings, get_settings
from rqstack.transport import keys, schema
from rqstack.transport.client import connect, explain

log = logging.getLogger("rqstack.scheduler")

POLL_INTERVAL = 1.0
"""Maximum seconds between two polls of Redis, which find jobs that were scheduled meanwhile."""

CONTENDED_INTERVAL = 0.1
"""Seconds until the next poll if something was due but another scheduler is handling it."""

FIRST_LOAD_TIMEOUT = 30.0
"""Seconds that the first firing waits for the first load, so that an entry removed by a deploy does not fire again."""

TRIM_INTERVAL = 60.0
"""Seconds between two removals of expired ids from the registries of finished jobs."""

TRIM_MOST = 2000
"""Ids that one removal takes at most: a millisecond of Redis's time."""

MAX_BACKOFF = 5.0
"""Maximum seconds between two attempts to reach Redis, or between two failed loads."""

SOCKET_TIMEOUT = 5.0


class _Stop(BaseException):
    """Raised by the signal handlers. Safe anywhere, because every change in Redis is one atomic script."""


@dataclass(frozen=True)
class NextDue:
    """When the next firing and the next delayed jobs are due. All times are seconds since the epoch on Redis's clock.

    Args:
        table_exists: Whether the declared cron table is in Redis.
        firing: The next firing of the cron table, or infinity.
        ready: Queues with jobs that are ready to be enqueued.
        delayed: The due time of the first delayed job, by queue.
    """

    now: float
    table_exists: bool
    firing: float
    ready: list[str]
    delayed: dict[str, float]

    def wait(self) -> float:
        """Seconds until something is due."""
        return max(0.0, min((self.firing, *self.delayed.values())) - self.now)


class SchedulerProcess:
    """A scheduler process.

    It keeps no state of its own: one script per firing decides in Redis whether it has already fired. While nothing is
    due, each cycle is one round trip. SIGTERM and SIGINT stop it at once, SIGHUP reloads the task code.

    Args:
        settings: Default: `get_settings()`.
        name: Its name in Redis. Default: from host name and process id.
    """

    def __init__(self, settings: Settings | None = None, *, name: str | None = None) -> None:
        self.settings = settings or get_settings()
        self.connection: Redis = connect(self.settings, retries=1, socket_timeout=SOCKET_TIMEOUT)
        self.table = CronTable(self.connection)
        self.delayed_jobs = DelayedJobs(self.connection, self.settings.job_timeout)
        self.heartbeat = Heartbeat(max(2 * self.settings.dead_after, 3 * self.settings.heartbeat), name)
        self._schema = schema.SharedSchema(self.settings)
        self._liveness = Liveness(SCHEDULER)
        self._loader = CronLoader(self.settings)
        self._code_version = ""
        # Times on the monotonic clock.
        self._load_at = 0.0
        self._fire_from = float("inf")
        self._next_heartbeat = 0.0
        self._next_trim = 0.0
        self._outage_since = 0.0
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
                wait = self._cycle_or_back_off()
                self._liveness.touch()
                time.sleep(wait)
        except _Stop:
            pass
        except (BrokerUnavailable, IncompatibleSchema) as error:
            log.error("%s", error)
            return error.exit_code
        finally:
            self._close()
        log.info("scheduler %s stopped", self.heartbeat.name)
        return 0

    def reload(self) -> None:
        """Reload the task code in the next cycle. Safe in a signal handler."""
        self._load_at = 0.0

    def _cycle_or_back_off(self) -> float:
        """Run one cycle, or back off while Redis is unavailable. Returns the seconds until the next cycle."""
        try:
            wait = self._cycle()
        except (RedisError, OSError) as error:
            return self._back_off(error)
        if self._outage_since:
            log.warning("Redis is back after %.1f s", time.monotonic() - self._outage_since)
            self._outage_since = self._backoff = 0.0
        return wait

    def _cycle(self) -> float:
        started = time.monotonic()
        if started >= self._next_heartbeat:
            if not self._schema.join(self.connection):
                return schema.POLL_INTERVAL
            self.heartbeat.beat(self.connection)
            self._next_heartbeat = started + self.settings.heartbeat
        self._load_table()
        next_due = self.next_due()
        if not next_due.table_exists and self._load_at == float("inf") and not self._loader.is_running:
            log.warning("the cron table is gone from Redis: loading it again")
            self.reload()
            return 0.0
        firing = started >= self._fire_from and next_due.firing <= next_due.now
        done = len(self.table.fire_due(next_due.now)) if firing else 0
        damaged = firing and self.table.damaged > 0
        due = [queue for queue, first in next_due.delayed.items() if first <= next_due.now]
        if due:
            result = self.delayed_jobs.move_due(next_due.now, due)
            done += result.moved + result.dropped
            damaged = damaged or bool(result.damaged)
        if next_due.ready:
            result = self.delayed_jobs.move_ready(next_due.now, next_due.ready)
            done += result.moved + result.dropped
            damaged = damaged or bool(result.damaged)
        if started >= self._next_trim:
            # As much again at once, while there is much to remove.
            is_full = int(TRIM(self.connection, [keys.QUEUES], [TRIM_MOST])) >= TRIM_MOST
            self._next_trim = started + (0.0 if is_full else TRIM_INTERVAL)
        if done:
            return 0.0
        if damaged:
            return POLL_INTERVAL  # it stays due until a person repairs the data
        if firing or due or self._loader.is_running or started < self._fire_from:
            return CONTENDED_INTERVAL
        return min(POLL_INTERVAL, next_due.wait())

    def next_due(self) -> NextDue:
        """Ask Redis in one round trip what is due next."""
        answer = NEXT_DUE(self.connection, [keys.CRON_NEXT, keys.CRON_MARK, keys.QUEUES], [])
        now = int(answer[0]) + int(answer[1]) / 1e6
        # next_due.lua drops names that are not UTF-8.
        delayed = {queue.decode(): float(first) for queue, first in zip(answer[5::2], answer[6::2], strict=True)}
        ready = [queue.decode() for queue in answer[4]]
        return NextDue(now, bool(answer[2]), float(answer[3]) if answer[3] else float("inf"), ready, delayed)

    def _load_table(self) -> None:
        """Start a load of the task code if one is due, and log the report of one that has ended."""
        if (report := self._loader.poll()) is not None:
            for problem in report.problems:
                log.error("%s", problem)
            if report.loaded:
                counts = ", ".join(f"{number} {kind}" for kind, number in report.counts.items())
                log.info("the cron table is loaded: %s", counts)
                self._fire_from = 0.0
                if report.problems:
                    log.error("nothing was removed from the cron table because of the errors above")
            elif self._load_at == float("inf"):
                self._load_at = time.monotonic() + MAX_BACKOFF
        current = code_version(self.settings)
        if current != self._code_version:
            log.info("the task code has changed: loading the cron table again")
            self._code_version = current
            self.reload()
        if not self._loader.is_running and time.monotonic() >= self._load_at:
            self._load_at = float("inf")
            self._loader.start()
            if self._fire_from == float("inf"):
                self._fire_from = time.monotonic() + FIRST_LOAD_TIMEOUT

    def _back_off(self, error: Exception) -> float:
        """Log the start of an outage. Returns the seconds until the next attempt."""
        if not self._outage_since:
            self._outage_since = time.monotonic()
            reason = explain(error, self.settings.redis_url) if isinstance(error, RedisError) else error
            log.warning("%s Trying again until it is back.", reason)
        self._next_heartbeat = 0.0
        self._backoff = min(max(2 * self._backoff, 0.1), MAX_BACKOFF)
        return self._backoff * random.uniform(0.5, 1)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise _Stop

    def _close(self) -> None:
        self._loader.stop()
        self._liveness.remove()
        self.connection.close()
        with suppress(RedisError, OSError):
            client = connect(self.settings, retries=0, socket_timeout=1, socket_connect_timeout=1)
            self.heartbeat.remove(client)
            client.close()
