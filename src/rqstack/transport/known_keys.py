"""Every key and channel of Redis that rqstack, or RQ in a process of rqstack, reads.

Whoever can write to Redis can write to all of them, so each is hostile until it is checked. A test compares the list
with the commands of all processes, and the fuzz run (`make fuzz`) writes to each.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import NamedTuple

from rqstack.transport.keys import PREFIX, STACK


class KnownKey:
    """A key, or many that have a part of their name in common.

    Args:
        pattern: Its name; each part in angle brackets stands for any text.
        kind: Its type, as Redis names it; `channel` for a channel.
        readers: The processes that read it.
    """

    def __init__(self, pattern: str, kind: str, *readers: str) -> None:
        self.pattern = pattern
        self.kind = kind
        self.readers = readers

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts = re.split(r"<[a-z ]+>", self.pattern)
        return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)

    def matches(self, key: str) -> bool:
        """Whether a key is one of these."""
        return self._expression.fullmatch(key) is not None


class Readers(NamedTuple):
    """The processes that read keys."""

    supervisor: str = "supervisor"
    horse: str = "horse"
    maintenance: str = "maintenance"
    scheduler: str = "scheduler"
    consumer: str = "consumer"
    producer: str = "producer"
    command: str = "command line"
    exporter: str = "exporter"
    page: str = "jobs page"


_R = Readers()
_SHOWN = (_R.command, _R.exporter, _R.page)


def _rq(name: str, kind: str, *readers: str) -> KnownKey:
    return KnownKey(f"{PREFIX}:{name}", kind, *readers)


def _stack(name: str, kind: str, *readers: str) -> KnownKey:
    return KnownKey(f"{STACK}{name}", kind, *readers)


KNOWN_KEYS = (
    # -- RQ's
    _rq("queues", "set", _R.scheduler, *_SHOWN),
    _rq("workers", "set", _R.supervisor, _R.maintenance, *_SHOWN),
    _rq("workers:<queue>", "set", _R.supervisor, _R.maintenance, _R.page),
    _rq("worker:<name>", "hash", _R.supervisor, _R.horse, *_SHOWN),
    _rq("worker:<name>:executions", "set", _R.supervisor, _R.horse, *_SHOWN),
    _rq("suspended", "string", _R.horse, _R.command),
    _rq("queue:<queue>", "list", _R.supervisor, _R.horse, _R.scheduler, _R.producer, *_SHOWN),
    _rq("queue:<queue>:intermediate", "list", _R.maintenance),
    _rq("queue:<queue>:intermediate:first_seen:<id>", "string", _R.maintenance),
    _rq("job:<id>", "hash", _R.supervisor, _R.horse, _R.maintenance, _R.scheduler, _R.producer, _R.command, _R.page),
    _rq("job:<id>:dependents", "set", _R.horse, _R.producer, _R.page),
    _rq("job::<id>:dependencies", "set", _R.horse, _R.producer, _R.page),
    _rq("results:<id>", "stream", _R.horse, _R.command, _R.page),
    _rq("execution:<id>:<execution>", "hash", _R.supervisor, _R.horse, _R.page),
    _rq("executions:<id>", "zset", _R.supervisor, _R.horse, _R.maintenance, _R.page),
    _rq("wip:<queue>", "zset", _R.supervisor, _R.horse, _R.maintenance, *_SHOWN),
    _rq("failed:<queue>", "zset", _R.horse, _R.maintenance, *_SHOWN),
    _rq("finished:<queue>", "zset", _R.horse, _R.maintenance, _R.scheduler, *_SHOWN),
    _rq("deferred:<queue>", "zset", _R.horse, _R.maintenance, *_SHOWN),
    _rq("scheduled:<queue>", "zset", _R.horse, _R.scheduler, *_SHOWN),
    _rq("ready:<queue>", "zset", _R.maintenance, _R.scheduler, _R.command),
    _rq("canceled:<queue>", "zset", _R.command, _R.page),
    _rq("rl-keys", "set", _R.maintenance, _R.command),
    _rq("rl:<limit>", "hash", _R.horse, _R.maintenance, _R.scheduler),
    _rq("rl:<limit>:allowed", "zset", _R.horse, _R.maintenance, _R.scheduler),
    _rq("rl:<limit>:rate_limited", "zset", _R.horse, _R.maintenance, _R.scheduler, _R.command),
    _rq("scheduler-lock:<queue>", "string", _R.scheduler),
    _rq("clean_registries:<queue>", "string", _R.maintenance),
    _rq("groups", "set", _R.maintenance),
    _rq("clean_groups", "string", _R.maintenance),
    _rq("group:<name>", "set", _R.horse, _R.maintenance),
    _rq("pubsub:<worker>", "channel", _R.supervisor),
    # -- rqstack's: see `keys`
    _stack("schema", "hash", _R.supervisor, _R.scheduler, _R.consumer),
    _stack("supervisors", "zset", _R.supervisor, _R.horse, _R.scheduler),
    _stack("supervisors:dead", "zset", _R.supervisor),
    _stack("supervisor:<id>", "hash", _R.supervisor, _R.scheduler),
    _stack("running:<id>", "hash", _R.supervisor, _R.horse),
    _stack("claim:<owner>:<queue key>", "list", _R.supervisor, _R.horse),
    _stack("releasing", "hash", _R.supervisor, _R.horse),
    _stack("crashes:<id>", "hash", _R.supervisor),
    _stack("metrics", "hash", _R.horse),
    _stack("metrics:payloads_rejected", "hash", _R.horse),
    _stack("cron:next", "zset", _R.scheduler),
    _stack("cron:mark", "string", _R.scheduler),
    _stack("cron:entry:<id>", "hash", _R.scheduler),
    _stack("cron:job:<id>", "hash", _R.scheduler),
    _stack("cron:state:<id>", "hash", _R.scheduler),
    _stack("schedulers", "set", _R.supervisor, _R.scheduler, _R.command),
    _stack("scheduler:<name>", "hash", _R.supervisor, _R.scheduler, _R.command),
    _stack("ratelimit:line:<task>", "zset", _R.horse),
    _stack("ratelimit:<window>", "list", _R.horse),
    _stack("bulk:<id>", "hash", _R.command),
    _stack("messages:<queue>", "list", _R.consumer),
    _stack("messages:<queue>:inbox:<owner>", "list", _R.consumer),
    _stack("messages:<queue>:leases", "zset", _R.consumer),
    _stack("never", "none", _R.supervisor, _R.horse, _R.scheduler, _R.consumer),
)


def is_known(key: str) -> bool:
    """Whether a key or channel is on the list."""
    return any(known.matches(key) for known in KNOWN_KEYS)
