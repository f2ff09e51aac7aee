"""The cron table in Redis: its entries, and firing those that are due."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from rqstack.registry.timetable import latest
from rqstack.scheduling.entries import CATCH_UP, DECLARED, Entry
from rqstack.scheduling.scripts import FIRE, PRUNE, PUT, SKIP
from rqstack.transport import keys
from rqstack.transport.errors import is_damage
from rqstack.transport.replies import decode, decode_all
from rqstack.transport.timestamps import format_seconds

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

log = logging.getLogger("rqstack.scheduler")

BATCH = 200
"""Entries that one call of `fire_due` handles at most."""

STATE_TTL = 300
"""Seconds for which the state of an entry outlives it. A deploy that removes an entry and adds it again, or an old
scheduler beside a new one, then neither repeats nor loses a firing."""


@dataclass(frozen=True)
class Status:
    """The status of a cron entry.

    Args:
        next: The next firing, in seconds since the epoch.
        last: The last firing that was run or skipped, in seconds since the epoch.
        last_job: Id of the last job, or "".
        fired: Number of jobs enqueued.
        skipped: How often missed firings were skipped.
    """

    next: int
    last: int
    last_job: str
    fired: int
    skipped: int


@dataclass
class SyncResult:
    """The outcome of `CronTable.sync`, as entry ids."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class CronTable:
    """The cron table in Redis."""

    def __init__(self, connection: Redis) -> None:
        self.connection: Any = connection
        self._decoded: dict[str, tuple[dict[bytes, bytes], Entry | None]] = {}
        self._logged_errors: dict[str, str] = {}
        self.damaged = 0
        """Errors about damaged data in the last `fire_due`."""

    def put(self, entry: Entry, now: int | None = None) -> bool:
        """Add an entry, or update the one with its id. The state of an existing entry is kept.

        Args:
            entry: Must have its template.
            now: Seconds since the epoch. Default: Redis's clock.

        Returns:
            False if an equal entry exists.
        """
        return bool(self._put(entry, self.now() if now is None else now))

    def sync(
        self,
        entries: Iterable[Entry],
        *,
        sources: Sequence[str] = (f"{DECLARED}*",),
        remove: bool = True,
        now: int | None = None,
    ) -> SyncResult:
        """Replace all entries of the given sources, in one transaction. Entries of other sources stay.

        Args:
            entries: The declared entries.
            sources: The sources that the entries cover; a trailing `*` matches any suffix. Default: all declared.
            remove: False keeps entries of these sources that are not given.
            now: Seconds since the epoch. Default: Redis's clock.
        """
        entries = list(entries)
        now = self.now() if now is None else now
        with self.connection.pipeline(transaction=True) as pipeline:
            for entry in entries:
                self._put(entry, now, pipeline)
            ids = [entry.id for entry in entries]
            if remove:
                self._prune(sources, "1", ids, pipeline)
            else:
                pipeline.set(keys.CRON_MARK, "1")
            answers = pipeline.execute()
        result = SyncResult(removed=decode_all(answers[-1]) if remove else [])
        for entry, answer in zip(entries, answers, strict=False):
            (result.unchanged, result.changed, result.added)[answer].append(entry.id)
        return result

    def cancel(self, id: str) -> bool:
        """Remove an entry. Returns whether it existed. A declared one comes back at the next start or deploy."""
        with self.connection.pipeline(transaction=True) as pipeline:
            pipeline.zrem(keys.CRON_NEXT, id)
            pipeline.delete(keys.CRON_ENTRY + id, keys.CRON_JOB + id)
            pipeline.expire(keys.CRON_STATE + id, STATE_TTL)
            return bool(pipeline.execute()[0])

    def cancel_all(self, source: str | None = None) -> list[str]:
        """Remove the entries of a source, or all entries. Returns their ids."""
        return decode_all(self._prune([source or "*"], "", []))

    def ids(self) -> list[str]:
        """The ids of all entries, the next to fire first."""
        return decode_all(self.connection.zrange(keys.CRON_NEXT, 0, -1))

    def __len__(self) -> int:
        return int(self.connection.zcard(keys.CRON_NEXT))

    def entries(self) -> list[tuple[Entry, Status]]:
        """All entries that this machine can read, the next to fire first. Takes two round trips."""
        rows = self.connection.zrange(keys.CRON_NEXT, 0, -1, withscores=True)
        found = []
        for (raw, score), (fields, state) in zip(rows, self._read([raw for raw, _ in rows]), strict=True):
            entry = self._decode(raw.decode(), fields)
            if entry is not None:
                last, job, fired, skipped = state
                job_id = decode(job)
                found.append(
                    (entry, Status(int(score), _parse_int(last), job_id, _parse_int(fired), _parse_int(skipped)))
                )
        return found

    def fire_due(self, now: float) -> list[str]:
        """Enqueue the jobs of all due firings. Any number of processes may call this at the same time.

        An entry whose data in Redis is damaged is logged, and does not hold up the others.

        Args:
            now: Seconds since the epoch.

        Returns:
            The ids of the jobs that this call enqueued.
        """
        self.damaged = 0
        due = self.connection.zrangebyscore(keys.CRON_NEXT, "-inf", int(now), start=0, num=BATCH)
        jobs: list[str] = []
        for raw, (fields, state) in zip(due, self._read(due), strict=True):
            entry = self._decode(raw.decode(), fields)
            if entry is not None:
                jobs += self._fire(entry, fields[b"version"].decode(), _parse_int(state[0]), now)
        return jobs

    def now(self) -> int:
        """Redis's clock in whole seconds, which all schedulers share."""
        return int(self.connection.time()[0])

    def _fire(self, entry: Entry, version: str, last: int, time: float) -> list[str]:
        """Run or skip the firings of an entry in (last, now].

        Firings up to `CATCH_UP` seconds late all run. If there are only older ones, the latest within the misfire grace
        runs. The rest is skipped.
        """
        now = int(time)
        catch_up_from = max(last, now - min(CATCH_UP, entry.misfire_grace) - 1)
        firings = list(_firings_between(entry, catch_up_from, now))
        if not firings and catch_up_from > last:
            missed = latest(entry.timetable, max(last, now - entry.misfire_grace - 1), now)
            firings = [missed] if missed is not None else []
        start = firings[0] if firings else now + 1
        first = entry.timetable.next_after(last)
        with self.connection.pipeline(transaction=False) as pipeline:
            skips = first < start and first <= now
            if skips or not firings:
                upto, count = (start - 1, 1) if skips else (last, 0)
                following = entry.timetable.next_after(upto)
                names = [keys.CRON_ENTRY + entry.id, keys.CRON_STATE + entry.id, keys.CRON_NEXT]
                SKIP(pipeline, names, [entry.id, version, upto, following, count])
            for index, firing in enumerate(firings):
                following = firings[index + 1] if index + 1 < len(firings) else entry.timetable.next_after(firing)
                self._queue_firing(entry, version, firing, following, time, pipeline)
            answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                self._log_damage(entry.id, answer)
        if (skips or not firings) and answers.pop(0) == 1:
            log.warning(
                "%s: skipped the missed firings from %s to %s: older than the misfire grace of %s s, or followed by a "
                "later one",
                entry.name,
                _format_utc(first),
                _format_utc(start - 1),
                entry.misfire_grace,
            )
        fired = [entry.job_id(firing) for firing, answer in zip(firings, answers, strict=True) if answer == 1]
        for job_id in fired:
            log.info("%s: enqueued %s on %s", entry.name, job_id, entry.queue)
        return fired

    def _queue_firing(
        self, entry: Entry, version: str, firing: int, following: int, now: float, pipeline: Pipeline
    ) -> None:
        """Add the script that enqueues the job of a firing to a pipeline."""
        job_id = entry.job_id(firing)
        names = [
            keys.CRON_ENTRY + entry.id,
            keys.CRON_JOB + entry.id,
            keys.CRON_STATE + entry.id,
            keys.CRON_NEXT,
            keys.JOB + job_id,
            keys.QUEUE + entry.queue,
            keys.QUEUES,
        ]
        FIRE(pipeline, names, [entry.id, version, firing, following, job_id, format_seconds(now), int(now)])

    def _put(self, entry: Entry, now: int, client: Pipeline | None = None) -> int:
        fields = entry.fields()
        arguments: list[object] = [entry.id, now, entry.timetable.next_after(now), len(fields)]
        arguments += [part for pair in fields.items() for part in pair]
        arguments += [part for pair in entry.template.items() for part in pair]
        names = [keys.CRON_ENTRY + entry.id, keys.CRON_JOB + entry.id, keys.CRON_STATE + entry.id, keys.CRON_NEXT]
        return PUT(client or self.connection, names, arguments)  # type: ignore[no-any-return]

    def _prune(
        self, sources: Sequence[str], mark: str, keep: Sequence[str], client: Pipeline | None = None
    ) -> list[bytes]:
        names = [keys.CRON_NEXT, keys.CRON_MARK]
        arguments = [STATE_TTL, mark, len(sources), *sources, *keep]
        return PRUNE(client or self.connection, names, arguments)  # type: ignore[no-any-return]

    def _read(self, ids: Sequence[bytes]) -> list[tuple[dict[bytes, bytes], list[bytes | None]]]:
        with self.connection.pipeline(transaction=False) as pipeline:
            for raw in ids:
                pipeline.hgetall(keys.CRON_ENTRY + raw.decode())
                pipeline.hmget(keys.CRON_STATE + raw.decode(), "last", "last_job", "fired", "skipped")
            answers = pipeline.execute(raise_on_error=False)
        found: list[tuple[dict[bytes, bytes], list[bytes | None]]] = []
        for raw, fields, state in zip(ids, answers[::2], answers[1::2], strict=True):
            if error := next((answer for answer in (fields, state) if isinstance(answer, Exception)), None):
                self._log_damage(raw.decode(), error)
                found.append(({}, [None] * 4))
            else:
                found.append((fields, state))
        return found

    def _log_damage(self, id: str, error: Exception) -> None:
        """Log an error about damaged data, once per entry and error.

        Raises:
            Exception: The error itself, if it is about anything else.
        """
        if not (isinstance(error, ResponseError) and is_damage(error)):
            raise error
        self.damaged += 1
        if self._logged_errors.get(id) != str(error):
            self._logged_errors[id] = str(error)
            log.error("the cron entry %s cannot be fired: %s", id, error)

    def _decode(self, id: str, fields: dict[bytes, bytes]) -> Entry | None:
        """An entry; None if it was removed meanwhile, or if this machine does not know its time zone."""
        cached, entry = self._decoded.get(id, ({}, None))
        if cached == fields:
            return entry
        try:
            if b"version" not in fields:
                raise KeyError("version")
            entry = Entry.from_fields(id, fields)
        except (ValueError, KeyError) as error:
            entry = None
            log.error("the cron entry %s cannot be read on this machine: %s", id, error)
        self._decoded[id] = fields, entry
        return entry


def _firings_between(entry: Entry, after: int, upto: int) -> Iterable[int]:
    firing = entry.timetable.next_after(after)
    while firing <= upto:
        yield firing
        firing = entry.timetable.next_after(firing)


def _parse_int(raw: bytes | None) -> int:
    """A counter from Redis; 0 if it is missing or not a number."""
    return int(raw) if raw and raw.isdigit() else 0


def _format_utc(instant: int) -> str:
    return format_seconds(instant)[:19] + "Z"
