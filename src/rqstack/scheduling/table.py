"""The cron table in Redis: what fires when, and the firing itself."""

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
from rqstack.transport.timestamps import format_seconds

if TYPE_CHECKING:
    from redis import Redis
    from redis.client import Pipeline

log = logging.getLogger("rqstack.scheduler")

BATCH = 200
"""Entries that one call of `fire_due` looks at."""

STATE_TTL = 300
"""Seconds for which the state of an entry outlives it, so that a deploy which takes it away and brings it back, or an
old scheduler beside a new one, neither repeats nor loses a firing."""


@dataclass(frozen=True)
class Status:
    """How an entry is doing, in seconds since the epoch.

    Args:
        next: Its next firing.
        last: The last one that was decided: run, or passed over.
        last_job: Id of the last job it made, or "".
        fired: Jobs it has made.
        skipped: Times that firings were passed over because they were missed for too long.
    """

    next: int
    last: int
    last_job: str
    fired: int
    skipped: int


@dataclass
class Change:
    """What `sync` did, as entry ids."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class CronTable:
    """The cron table of a Redis.

    Args:
        connection: Redis.
    """

    def __init__(self, connection: Redis) -> None:
        self.connection: Any = connection
        self._read_before: dict[str, tuple[dict[bytes, bytes], Entry | None]] = {}
        self._said: dict[str, str] = {}
        self.damaged = 0
        """Answers of Redis in the last `fire_due` that were about damaged data."""

    def put(self, entry: Entry, now: int | None = None) -> bool:
        """Add an entry, or replace the one of its id. Its state stays; what differs is written, nothing else.

        Args:
            entry: With its template.
            now: Seconds since the epoch. Default: Redis's clock.

        Returns:
            False if it was there already, just so.
        """
        return bool(self._put(entry, self.now() if now is None else now))

    def sync(
        self,
        entries: Iterable[Entry],
        *,
        sources: Sequence[str] = (f"{DECLARED}*",),
        remove: bool = True,
        now: int | None = None,
    ) -> Change:
        """Make the declared entries exactly these, in one transaction. Entries made at run time stay.

        Args:
            entries: The declared entries.
            sources: Whose entries these are; a `*` at the end stands for anything. Those of others stay.
            remove: False keeps declared entries that are not among these.
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
        change = Change(removed=_texts(answers[-1]) if remove else [])
        for entry, answer in zip(entries, answers, strict=False):
            (change.unchanged, change.changed, change.added)[answer].append(entry.id)
        return change

    def cancel(self, id: str) -> bool:
        """Remove an entry. Returns whether there was one. A declared one comes back at the next start or deploy."""
        with self.connection.pipeline(transaction=True) as pipeline:
            pipeline.zrem(keys.CRON_NEXT, id)
            pipeline.delete(keys.CRON_ENTRY + id, keys.CRON_JOB + id)
            pipeline.expire(keys.CRON_STATE + id, STATE_TTL)
            return bool(pipeline.execute()[0])

    def cancel_all(self, source: str | None = None) -> list[str]:
        """Remove the entries of a source, or all. Returns their ids."""
        return _texts(self._prune([source or "*"], "", []))

    def ids(self) -> list[str]:
        """The ids of all entries, the next to fire first."""
        return _texts(self.connection.zrange(keys.CRON_NEXT, 0, -1))

    def __len__(self) -> int:
        return int(self.connection.zcard(keys.CRON_NEXT))

    def entries(self) -> list[tuple[Entry, Status]]:
        """All entries, the next to fire first. Two round trips. One that this machine cannot read is left out."""
        rows = self.connection.zrange(keys.CRON_NEXT, 0, -1, withscores=True)
        found = []
        for (raw, score), (fields, state) in zip(rows, self._read([raw for raw, _ in rows]), strict=True):
            entry = self._decode(raw.decode(), fields)
            if entry is not None:
                last, job, fired, skipped = state
                found.append(
                    (
                        entry,
                        Status(int(score), _whole(last), (job or b"").decode(), _whole(fired), _whole(skipped)),
                    )
                )
        return found

    def fire_due(self, now: float) -> list[str]:
        """Enqueue the jobs of all firings that are due. Safe to call from any number of processes at once.

        Args:
            now: Seconds since the epoch.

        Returns:
            The ids of the jobs that this call enqueued. What is damaged in Redis is logged, and holds up no other.
        """
        self.damaged = 0
        due = self.connection.zrangebyscore(keys.CRON_NEXT, "-inf", int(now), start=0, num=BATCH)
        jobs: list[str] = []
        for raw, (fields, state) in zip(due, self._read(due), strict=True):
            entry = self._decode(raw.decode(), fields)
            if entry is not None:
                jobs += self._fire(entry, fields[b"version"].decode(), _whole(state[0]), now)
        return jobs

    def now(self) -> int:
        """Redis's clock, in whole seconds: the one clock that all schedulers share."""
        return int(self.connection.time()[0])

    def _fire(self, entry: Entry, version: str, last: int, time: float) -> list[str]:
        """Decide the firings of an entry in (last, now]: run them, or pass over those missed for too long."""
        now = int(time)
        floor = max(last, now - min(CATCH_UP, entry.misfire_grace) - 1)
        firings = list(_between(entry, floor, now))
        if not firings and floor > last:
            missed = latest(entry.timetable, max(last, now - entry.misfire_grace - 1), now)
            firings = [missed] if missed is not None else []
        start = firings[0] if firings else now + 1
        first = entry.timetable.next_after(last)
        with self.connection.pipeline(transaction=False) as pipeline:
            passing = first < start and first <= now
            if passing or not firings:
                upto, count = (start - 1, 1) if passing else (last, 0)
                following = entry.timetable.next_after(upto)
                names = [keys.CRON_ENTRY + entry.id, keys.CRON_STATE + entry.id, keys.CRON_NEXT]
                SKIP(pipeline, names, [entry.id, version, upto, following, count])
            for index, firing in enumerate(firings):
                following = firings[index + 1] if index + 1 < len(firings) else entry.timetable.next_after(firing)
                self._send(entry, version, firing, following, time, pipeline)
            answers = pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                self._note(entry.id, answer)
        if (passing or not firings) and answers.pop(0) == 1:
            log.warning(
                "%s: firings from %s to %s were missed and are skipped: older than its misfire grace of %s s, or "
                "followed by a later one",
                entry.name,
                _clock(first),
                _clock(start - 1),
                entry.misfire_grace,
            )
        fired = [entry.job_id(firing) for firing, answer in zip(firings, answers, strict=True) if answer == 1]
        for job_id in fired:
            log.info("%s: enqueued %s on %s", entry.name, job_id, entry.queue)
        return fired

    def _send(self, entry: Entry, version: str, firing: int, following: int, now: float, pipeline: Pipeline) -> None:
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
        FIRE(pipeline, names, [entry.id, version, firing, following, job_id, format_seconds(now)])

    def _put(self, entry: Entry, now: int, client: Pipeline | None = None) -> int:
        fields = entry.fields()
        arguments: list[object] = [entry.id, now, entry.timetable.next_after(now), len(fields)]
        arguments += [part for pair in fields.items() for part in pair]
        arguments += [part for pair in entry.template.items() for part in pair]
        names = [keys.CRON_ENTRY + entry.id, keys.CRON_JOB + entry.id, keys.CRON_STATE + entry.id, keys.CRON_NEXT]
        return PUT(client or self.connection, names, arguments)  # type: ignore[no-any-return]

    def _prune(
        self, sources: Sequence[str], mark: str, ids: Sequence[str], client: Pipeline | None = None
    ) -> list[bytes]:
        names = [keys.CRON_NEXT, keys.CRON_MARK]
        arguments = [STATE_TTL, mark, len(sources), *sources, *ids]
        return PRUNE(client or self.connection, names, arguments)  # type: ignore[no-any-return]

    def _read(self, ids: Sequence[bytes]) -> list[tuple[dict[bytes, bytes], list[bytes | None]]]:
        with self.connection.pipeline(transaction=False) as pipeline:
            for raw in ids:
                pipeline.hgetall(keys.CRON_ENTRY + raw.decode())
                pipeline.hmget(keys.CRON_STATE + raw.decode(), "last", "last_job", "fired", "skipped")
            answers = pipeline.execute(raise_on_error=False)
        found: list[tuple[dict[bytes, bytes], list[bytes | None]]] = []
        for raw, fields, state in zip(ids, answers[::2], answers[1::2], strict=True):
            if wrong := next((answer for answer in (fields, state) if isinstance(answer, Exception)), None):
                self._note(raw.decode(), wrong)
                found.append(({}, [None] * 4))
            else:
                found.append((fields, state))
        return found

    def _note(self, id: str, error: Exception) -> None:
        """Log what is damaged, once.

        Raises:
            Exception: The error, where it is about something else.
        """
        if not (isinstance(error, ResponseError) and is_damage(error)):
            raise error
        self.damaged += 1
        if self._said.get(id) != str(error):
            self._said[id] = str(error)
            log.error("the cron entry %s cannot be fired: %s", id, error)

    def _decode(self, id: str, fields: dict[bytes, bytes]) -> Entry | None:
        """An entry, or None if it was removed since its id was read, or is of a time zone that this machine lacks."""
        known, entry = self._read_before.get(id, ({}, None))
        if known == fields:
            return entry
        try:
            if b"version" not in fields:
                raise KeyError("version")
            entry = Entry.from_fields(id, fields)
        except (ValueError, KeyError) as error:
            entry = None
            log.error("the cron entry %s cannot be read here: %s", id, error)
        self._read_before[id] = fields, entry
        return entry


def _between(entry: Entry, after: int, upto: int) -> Iterable[int]:
    firing = entry.timetable.next_after(after)
    while firing <= upto:
        yield firing
        firing = entry.timetable.next_after(firing)


def _whole(raw: bytes | None) -> int:
    """A number that a script keeps; 0 where there is none, or something else."""
    return int(raw) if raw and raw.isdigit() else 0


def _texts(values: Iterable[bytes]) -> list[str]:
    return [value.decode() for value in values]


def _clock(instant: int) -> str:
    return format_seconds(instant)[:19] + "Z"
