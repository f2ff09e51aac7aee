"""Hostile records: random ones, and those that were made for the code that reads a key."""

from __future__ import annotations

import base64
import json
import pickle
import random
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redis import Redis

from rqstack.transport.known_keys import KNOWN_KEYS, KnownKey

QUEUES = ("default", "other")
"""Queues that the workers listen on."""

CALLBACKS = (
    b"logging.critical",
    b"os.abort",
    b"shop.tasks.os._exit",
    b"builtins.exec",
    b"nowhere.at.all",
    b"\xff",
    b"",
)

_DEEP = b"[" * 100_000
_JSON = (
    *(
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"[1]",
        b"[[]]",
        b'[null, {"a": 1}]',
        b'{"queues": 1}',
        b'["\\ud800"]',
        b"{",
        b"[,",
    ),
    *(_DEEP, b'{"a":' * 50_000, b'{"command": 1}', b'{"command": "stop-job", "job_id": {"a": 1}}', b"nan", b"1e999"),
    *(b'{"command": "stop-job"}', b'{"command": "stop-execution", "execution_id": []}', b'{"command": "unknown"}'),
    *(b'{"command": ["shutdown"]}', b'[{"url": "file:///etc/passwd", "job_status": "failed"}]', b"\xff\xfe{}"),
)
_NUMBERS = (
    *(
        b"nan",
        b"inf",
        b"-inf",
        b"-1",
        b"0",
        b"1e400",
        b"9" * 400,
        b"9" * 5000,
        b"0x10",
        b"1.5",
        b"-" + b"9" * 30,
        b" 1 ",
    ),
    *(b"10m", b"x", b"", b"99999999999", b"\xd9\xa3"),
)
_TIMES = (
    *(
        b"9999-12-31T23:59:59.999999Z",
        b"0001-01-01T00:00:00.000000Z",
        b"0001-01-01T00:00:00+23:59",
        b"2026-13-45T99:00Z",
    ),
    *(b"yesterday", b"\xff", b"99999999999999999999"),
)
_TEXTS = (
    *(
        b"",
        b"\0",
        b"\n",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\x1b]0;title\x07\x1b[2J",
        b"a\r\nb",
        "é∑😀".encode(),
        b"a" * 2000,
    ),
    *(
        b"../../etc/passwd",
        b"<script>alert(1)</script>",
        b"%s%n{0}",
        b"*",
        b"rq:queue:default",
        b"x:y:z",
        b"=",
        b"\xff" * 50,
    ),
)
_LARGE = (b"A" * 100_000, b"\xff" * 200_000, b"9" * 100_000)
_TYPES = ("string", "list", "set", "zset", "hash", "stream")
_SCORES = ("-inf", "+inf", "0", "-1", "1", "1e300", "-1e300", "1e15")

_JOB_FIELDS = (
    *(
        "data",
        "status",
        "origin",
        "description",
        "enqueued_at",
        "created_at",
        "started_at",
        "ended_at",
        "last_heartbeat",
    ),
    *(
        "timeout",
        "result_ttl",
        "failure_ttl",
        "ttl",
        "meta",
        "worker_name",
        "group_id",
        "retries_left",
        "retry_intervals",
    ),
    *("repeats_left", "repeat_intervals", "rate_limit_key", "rate_limit_concurrency", "webhooks", "dependency_ids"),
    *("success_callback_name", "success_callback_timeout", "failure_callback_name", "failure_callback_timeout"),
    *(
        "stopped_callback_name",
        "stopped_callback_timeout",
        "number_of_retries",
        "enqueue_at_front",
        "exc_info",
        "result",
    ),
    *("allow_dependency_failures", "enqueue_at_front_on_retry"),
)
_STATUSES = (
    b"queued",
    b"started",
    b"finished",
    b"failed",
    b"deferred",
    b"scheduled",
    b"canceled",
    b"stopped",
    b"rate_limited",
)
_CRON = (
    *(
        b"* * * * * *",
        b"every 1 s",
        b"every 0 s",
        b"every " + b"9" * 5000 + b" s",
        b"every 999999999999999999 s",
        b"@daily",
    ),
    *(b"0 0 31 2 *", b"* * * *", b"\xff", b"@nothing", b"*/0 * * * *", b"99 99 99 99 99", b"* " * 1000),
)
_ZONES = (
    b"UTC",
    b"Europe/London",
    b"../../etc/passwd",
    b"",
    b"\xff",
    b"America",
    b"/etc/localtime",
    b"Mars/Base",
    b"a" * 5000,
)


class _Touch:
    """Unpickling it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


class Attacker:
    """Writes hostile records. With the same seed, on the same Redis, the same ones.

    Args:
        client: Its Redis.
        draw: Its random numbers.
        marker: A file that exists once a payload of the attacker was unpickled.
    """

    def __init__(self, client: Redis, draw: random.Random, marker: Path) -> None:
        self._client: Any = client
        self._draw = draw
        self.written = 0
        """Records written."""
        self.by_pattern: dict[str, int] = {known.pattern: 0 for known in KNOWN_KEYS}
        """Records by the pattern of their key."""
        bomb = zlib.compress(b"\0" * (200 << 20), 9)
        evil = pickle.dumps(("os.abort", None, (_Touch(marker),), {}))
        self._payloads = (
            *(bomb, zlib.compress(bomb), evil, zlib.compress(evil), b"", b"\x78\x9c", b"\xff" * 100),
            *(zlib.compress(evil + b"rqs1" + b"\0" * 32), zlib.compress(_DEEP), zlib.compress(b"x")[:-3], *_TEXTS),
        )
        self._queues = [*QUEUES, "letters", "nobody", "hostile\nqueue", "ü"]
        self._names: dict[str, list[bytes]] = {}
        self._jobs = [f"hostile-{number}".encode() for number in range(40)]

    def write(self, count: int) -> None:
        """Write records, each to a key or channel of the list, in turn."""
        self._look()
        for _ in range(count):
            known = KNOWN_KEYS[self.written % len(KNOWN_KEYS)]
            self._write(known)
            self.by_pattern[known.pattern] += 1
            self.written += 1

    def _look(self) -> None:
        """Learn the names of what runs, as an attacker would."""
        client = self._client

        def members(key: str, command: Callable[..., Any], *arguments: Any) -> list[bytes]:
            try:
                return [bytes(each) for each in command(key, *arguments)]
            except Exception:
                return []

        workers = [key.rpartition(b"rq:worker:")[2] for key in members("rq:workers", client.smembers)]
        supervisors = members("rqstack:supervisors", client.zrange, 0, -1)
        cron = members("rqstack:cron:next", client.zrange, 0, -1)
        schedulers = [key.rpartition(b":")[2] for key in members("rqstack:schedulers", client.smembers)]
        queues = [name.encode() for name in self._queues]
        self._names = {
            "<queue>": [*queues, b"\xff\xfe", b"", b"a" * 2000],
            "<name>": [*workers, *schedulers, *_TEXTS[:6], b"nobody"],
            "<worker>": workers or [b"nobody"],
            "<id>": [*self._jobs, *supervisors, *cron, *_TEXTS[:8]],
            "<owner>": [*workers, *supervisors, b"nobody"],
            "<queue key>": [b"rq:queue:" + name for name in queues],
            "<execution>": [b"0" * 32, b"\xff", b""],
            "<limit>": [b"few", b"\xff", b""],
            "<task>": [b"shop.tasks.give", b"\xff"],
            "<window>": [b"window/shop.tasks.give/1/1", b"LIMITER/window", b"\xff"],
        }

    def _write(self, known: KnownKey) -> None:
        draw = self._draw
        key = known.pattern.encode()
        for part, names in self._names.items():
            while part.encode() in key:
                key = key.replace(part.encode(), draw.choice(names), 1)
        if known.kind == "channel":
            self._client.publish(key, self._value())
            return
        kind = known.kind if known.kind in _TYPES else "string"
        if draw.random() < 0.35:
            kind = draw.choice(_TYPES)
        if known.pattern == "rqstack:schema" and kind == "hash":
            # A version of a later release is no damage: it ends every process, with a message.
            fields = {b"version": draw.choice(_TEXTS), b"oldest": draw.choice(_TEXTS)}
            self._replace(key, kind, lambda pipe: pipe.hset(key, mapping=fields))
            return
        if known.pattern == "rqstack:cron:mark" and kind == "string":
            # A number says how many entries there are: 0 together with an empty table is what deleting all leaves.
            self._replace(key, kind, lambda pipe: pipe.set(key, draw.choice(_TEXTS)))
            return
        writers: dict[str, Callable[[Any], object]] = {
            "string": lambda pipe: pipe.set(key, self._value()),
            "list": lambda pipe: pipe.rpush(key, *self._members(known)),
            "set": lambda pipe: pipe.sadd(key, *self._members(known)),
            "zset": lambda pipe: pipe.zadd(key, {each: self._score() for each in self._members(known)}),
            "hash": lambda pipe: pipe.hset(key, mapping=self._fields(known)),
            "stream": lambda pipe: pipe.xadd(key, self._result()),
        }
        self._replace(key, kind, writers[kind])

    def _replace(self, key: bytes, kind: str, write: Callable[[Any], object]) -> None:
        """Write to a key of this type; one of another type is deleted first."""
        found = self._client.type(key).decode()
        with self._client.pipeline(transaction=True) as pipe:
            if found not in ("none", kind) or self._draw.random() < 0.1:
                pipe.delete(key)
            write(pipe)
            pipe.execute()

    def _value(self) -> bytes:
        draw = self._draw
        pools: Sequence[Sequence[bytes]] = (_TEXTS, _NUMBERS, _JSON, _TIMES, self._payloads, CALLBACKS)
        if draw.random() < 0.02:
            return draw.choice(_LARGE)
        if draw.random() < 0.2:
            return draw.randbytes(draw.randrange(60))
        return draw.choice(draw.choice(pools))

    def _score(self) -> str:
        draw = self._draw
        return draw.choice((*_SCORES, str(time.time() - draw.randrange(1000)), str(time.time() + 5)))

    def _members(self, known: KnownKey) -> list[bytes]:
        draw = self._draw
        pattern = known.pattern
        count = draw.randrange(1, 4)
        if pattern in ("rq:queues", "rq:workers", "rqstack:schedulers") or pattern.startswith("rq:workers:"):
            prefix = {"rq:queues": b"rq:queue:", "rqstack:schedulers": b"rqstack:scheduler:"}.get(
                pattern, b"rq:worker:"
            )
            return [prefix + draw.choice(_TEXTS) if draw.random() < 0.6 else draw.choice(_TEXTS) for _ in range(count)]
        pool = [*self._jobs, *self._names["<id>"], *_TEXTS]
        if pattern in ("rq:wip:<queue>", "rq:worker:<name>:executions"):
            return [draw.choice(pool) + draw.choice((b":" + b"0" * 32, b"", b":", b":\xff")) for _ in range(count)]
        if pattern.startswith("rqstack:messages"):
            return [draw.choice(self._payloads) for _ in range(count)]
        return [draw.choice(pool) if draw.random() < 0.8 else self._value() for _ in range(count)]

    def _fields(self, known: KnownKey) -> dict[bytes, bytes]:
        draw = self._draw
        if known.pattern == "rq:job:<id>":
            return self._job()
        if known.pattern == "rqstack:cron:entry:<id>":
            entry = {
                **dict.fromkeys((b"name", b"task", b"queue", b"source", b"description", b"version"), b"x"),
                b"timetable": draw.choice(_CRON),
                b"zone": draw.choice(_ZONES),
                b"misfire_grace": b"3600",
            }
            spoilt = draw.choice(list(entry))
            if draw.random() < 0.7:
                entry[spoilt] = self._value()
            return entry
        if known.pattern == "rqstack:cron:state:<id>":
            return {name: draw.choice((*_NUMBERS, b"\xff")) for name in (b"last", b"fired", b"skipped", b"last_job")}
        if known.pattern == "rqstack:running:<id>":
            lease = draw.choice(self._names["<queue>"]) + b"\n" + draw.choice(self._jobs) + b":" + b"0" * 32
            return {draw.choice(self._names["<owner>"]): draw.choice((lease, lease + b"\0" + lease, self._value()))}
        names = [
            *(b"queues", b"workers", b"hostname", b"schema", b"birth", b"last_heartbeat", b"state", b"pid", b"death"),
            *(
                b"successful_job_count",
                b"failed_job_count",
                b"total_working_time",
                b"count",
                b"execution",
                b"concurrency",
            ),
            *(
                b"version",
                b"oldest",
                b"call",
                b"left",
                b"done",
                b"job_id",
                b"worker_name",
                b"created_at",
                b"ip_address",
            ),
        ]
        return {
            draw.choice(names) if draw.random() < 0.9 else draw.choice(_TEXTS): self._value()
            for _ in range(draw.randrange(1, 8))
        }

    def _job(self) -> dict[bytes, bytes]:
        """A job's record: mostly as RQ writes it, and some fields spoilt. It is put on a queue or in a registry too."""
        draw = self._draw
        job = {
            b"data": draw.choice(self._payloads),
            b"origin": draw.choice(QUEUES).encode(),
            b"status": b"queued",
            b"created_at": b"2026-01-01T00:00:00.000000Z",
            b"timeout": b"5",
            b"description": b"shop.tasks.give(1)",
        }
        job[b"status"] = draw.choice(_STATUSES)
        for name in draw.sample(_JOB_FIELDS, draw.randrange(0, 6)):
            pool = CALLBACKS if name.endswith("callback_name") else self._payloads if name in ("data", "meta") else ()
            job[name.encode()] = draw.choice(pool) if pool else self._value()
        return job

    def enqueue(self, count: int) -> None:
        """Put hostile jobs where workers and schedulers look, after their records were written."""
        draw = self._draw
        for _ in range(count):
            job_id, queue = draw.choice([*self._jobs, b"\xff", b"a:b", b"x\ny"]), draw.choice(QUEUES)
            place = draw.choice(("queue", "queue", "queue", "scheduled", "ready", "wip"))
            with self._client.pipeline(transaction=True) as pipe:
                pipe.delete(b"rq:job:" + job_id)
                pipe.hset(b"rq:job:" + job_id, mapping=self._job())
                key = f"rq:{place}:{queue}"
                wanted = b"list" if place == "queue" else b"zset"
                if self._client.type(key) not in (wanted, b"none"):
                    pipe.delete(key)
                if place == "queue":
                    pipe.rpush(key, job_id)
                else:
                    run = job_id + b":" + b"0" * 32 if place == "wip" else job_id
                    pipe.zadd(key, {run: time.time() - draw.randrange(100)})
                pipe.execute()
            self.written += 1
            self.by_pattern["rq:job:<id>"] += 1

    def _result(self) -> dict[bytes, bytes]:
        draw = self._draw
        bomb = base64.b64encode(self._payloads[0])
        return {
            b"type": draw.choice((b"1", b"2", b"9", b"x")),
            draw.choice((b"return_value", b"exc_string")): draw.choice((bomb, b"\xff", b"!", b"", self._value())),
            b"execution_started_at": draw.choice(_NUMBERS),
            b"worker_name": draw.choice(_TEXTS),
        }


def to_json(figures: dict[str, Any]) -> str:
    """Figures as JSON."""
    return json.dumps(figures, indent=1) + "\n"
