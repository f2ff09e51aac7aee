"""The cron table in Redis: its entries, and firing those that are due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from rqstack.registry.timetable import latest
from rqstack.scheduling.entries import CATCH_UP, DECLARED, RUN_TIME, Entry, UnknownZone
from rqstack.scheduling.scripts import FIRE, PRUNE, PUT, SKIP
from rqstack.transport import keys
from rqstack.transport.damaged import LogOnce, drop_wrong_types, name_of
from rqstack.transport.errors import is_damage
from rqstack.transport.replies import decode, decode_all
from rqstack.transport.timestamps import format_seconds

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

log = logging.getLogger("rqstack.scheduler")

BATCH = 200
"""Entries that one call of `fire_due` handles at most."""

_MOST_BATCHES = 25
"""Batches of one call that cannot be fired at all."""

_AHEAD = 60
"""Seconds by which the last firing may be ahead of now: a failover may set Redis's clock back."""

_RELOAD_INTERVAL = 10.0
"""Seconds between two reads of the task code because of entries that were dropped."""

_MOST_DECODED = 10_000
"""Entries that are kept decoded."""

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
        self._damage = LogOnce(log)
        self._reload_at = 0.0
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
        self._drop_damage()
        with self.connection.pipeline(transaction=True) as pipeline:
            for entry in entries:
                self._put(entry, now, pipeline)
            ids = [entry.id for entry in entries]
            if remove:
                self._prune(sources, str(len(ids)), ids, pipeline)
            else:
                pipeline.set(keys.CRON_MARK, str(len(ids)))
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
        self._drop_damage()
        rows = self._named(self.connection.zrange(keys.CRON_NEXT, 0, -1, withscores=True))
        found = []
        for (entry_id, score), (fields, state) in zip(rows, self._read([each for each, _ in rows]), strict=True):
            entry = self._decode(entry_id, fields)
            if entry is not None and math.isfinite(score):
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
        jobs: list[str] = []
        stuck = 0
        # Entries that cannot be fired stay due; those behind them have their turn all the same.
        for _ in range(_MOST_BATCHES):
            try:
                due = self.connection.zrangebyscore(
                    keys.CRON_NEXT, "-inf", int(now), start=stuck, num=BATCH, withscores=True
                )
            except ResponseError as error:
                if not is_damage(error):
                    raise
                self._drop_damage()
                break
            rows = self._named(due)
            for (entry_id, _), (fields, state) in zip(rows, self._read([each for each, _ in rows]), strict=True):
                jobs += self._fire_one(entry_id, fields, state, now)
            if len(due) < BATCH:
                break
            left = self.connection.zcount(keys.CRON_NEXT, "-inf", int(now))
            stuck = min(stuck + BATCH, left) if left >= stuck + BATCH else stuck
        return jobs

    def _fire_one(self, entry_id: str, fields: dict[bytes, bytes], state: list[bytes | None], now: float) -> list[str]:
        entry = self._decode(entry_id, fields)
        if entry is None:
            return []
        last = _parse_int(state[0])
        # Lua takes other texts for numbers too, such as 1e400: nothing would be later than that.
        if last > now + _AHEAD or (last == 0 and state[0] not in (None, b"0")):
            self._damage.error(entry_id, "the last firing of the cron entry %s is damaged, and is ignored", entry_id)
            last = int(now) - 1
            self.connection.hset(keys.CRON_STATE + entry_id, "last", last)
        try:
            return self._fire(entry, fields[b"version"].decode(), last, now)
        except (ValueError, OverflowError, OSError, TypeError) as error:  # its numbers are out of range
            self._drop(entry_id, error)
            return []

    def _drop(self, entry_id: str, reason: object) -> None:
        """Drop an entry that no machine can fire. A declared one comes back when the task code is read again."""
        self.damaged += 1
        self._damage.error(entry_id, "the cron entry %s is damaged, and is dropped: %s", entry_id, reason)
        self.cancel(entry_id)
        if (moment := time.monotonic()) >= self._reload_at:
            # The scheduler then reads the task code again, and declares what was dropped; seldom, as it takes seconds.
            self._reload_at = moment + _RELOAD_INTERVAL
            self.connection.delete(keys.CRON_MARK)

    def _drop_damage(self) -> None:
        drop_wrong_types(self.connection, {keys.CRON_NEXT: "zset", keys.CRON_MARK: "string"})

    def _named(self, rows: Iterable[tuple[bytes, float]]) -> list[tuple[str, float]]:
        """Rows whose id is a name. Others are dropped."""
        found = []
        for raw, score in rows:
            if (entry_id := name_of(raw)) is None:
                self._damage.error("id", "%s has an invalid id; it is dropped.", keys.CRON_NEXT)
                self.connection.zrem(keys.CRON_NEXT, raw)
            else:
                found.append((entry_id, score))
        return found

    def now(self) -> int:
        """Redis's clock in whole seconds, which all schedulers share."""
        return int(self.connection.time()[0])

    def _fire(self, entry: Entry, version: str, last: int, clock: float) -> list[str]:
        """Run or skip the firings of an entry in (last, now].

        Firings up to `CATCH_UP` seconds late all run. If there are only older ones, the latest within the misfire grace
        runs. The rest is skipped.
        """
        now = int(clock)
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
                self._queue_firing(entry, version, firing, following, clock, pipeline)
            answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                self._drop_for(entry.id, answer)
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

    def _read(self, ids: Sequence[str]) -> list[tuple[dict[bytes, bytes], list[bytes | None]]]:
        with self.connection.pipeline(transaction=False) as pipeline:
            for entry_id in ids:
                pipeline.hgetall(keys.CRON_ENTRY + entry_id)
                pipeline.hmget(keys.CRON_STATE + entry_id, "last", "last_job", "fired", "skipped")
            answers = pipeline.execute(raise_on_error=False)
        found: list[tuple[dict[bytes, bytes], list[bytes | None]]] = []
        for entry_id, fields, state in zip(ids, answers[::2], answers[1::2], strict=True):
            if error := next((answer for answer in (fields, state) if isinstance(answer, Exception)), None):
                if not (isinstance(error, ResponseError) and is_damage(error)):
                    raise error
                drop_wrong_types(
                    self.connection, {keys.CRON_ENTRY + entry_id: "hash", keys.CRON_STATE + entry_id: "hash"}
                )
                fields = {} if isinstance(fields, Exception) else fields
                state = [None] * 4 if isinstance(state, Exception) else state
            found.append((fields, state))
        return found

    def _check_version(self, entry: Entry, fields: dict[bytes, bytes]) -> None:
        """Check that a declared entry and the template of its jobs are as they were written.

        Raises:
            ValueError: They are not.
        """
        # The task code declares it anew. One of run time has no other source, and one with other fields is of another
        # release, which may count them in its version.
        if entry.source == RUN_TIME or not _same_fields(entry, fields):
            return
        try:
            template = self.connection.hgetall(keys.CRON_JOB + entry.id)
        except ResponseError as error:
            raise ValueError(str(error)) from None
        stored = replace(entry, template={decode(name): value for name, value in template.items()})
        if stored.version != decode(fields[b"version"]):
            raise ValueError("it is not what the task code has declared")

    def _drop_for(self, id: str, error: Exception) -> None:
        """Drop an entry for an error about damaged data.

        Raises:
            Exception: The error itself, if it is about anything else.
        """
        if not (isinstance(error, ResponseError) and is_damage(error)):
            raise error
        self._drop(id, error)

    def _decode(self, id: str, fields: dict[bytes, bytes]) -> Entry | None:
        """An entry; None if it is damaged, or if this machine does not know its time zone."""
        cached, entry = self._decoded.get(id, ({}, None))
        if cached == fields and fields:
            return entry
        try:
            entry = Entry.from_fields(id, fields)
            self._check_version(entry, fields)
        except UnknownZone as error:
            entry = None
            self.damaged += 1
            log.error("the cron entry %s cannot be read on this machine: %s", id, error)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self._drop(id, f"it has no {error.args[0]}" if isinstance(error, KeyError) else error)
            return None
        if len(self._decoded) >= _MOST_DECODED:
            self._decoded.clear()
        self._decoded[id] = fields, entry
        return entry


def _same_fields(entry: Entry, fields: Mapping[bytes, bytes]) -> bool:
    return {name.encode() for name in entry.fields()} == fields.keys()


def _firings_between(entry: Entry, after: int, upto: int) -> Iterable[int]:
    firing = entry.timetable.next_after(after)
    while firing <= upto:
        yield firing
        firing = entry.timetable.next_after(firing)


def _parse_int(raw: bytes | None) -> int:
    """A counter from Redis; 0 if it is missing or not a number."""
    return int(raw) if raw and raw.isdigit() and len(raw) < 20 else 0


def _format_utc(instant: int) -> str:
    return format_seconds(instant)[:19] + "Z"
