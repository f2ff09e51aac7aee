"""The schema version of the data in Redis: which releases of rqstack may share one Redis.

Every long-running process joins when it starts, and says so again with each heartbeat. Neighbouring versions share the
data during a rolling update: the new one raises the stored version, the old one goes on. A process that must not share
the data ends with an error message and changes nothing.

| version | release | what changed |
|---|---|---|
| 1 | 0.1.0 | RQ 2.12's keys; no version in Redis |
| 2 | 0.2.0 | RQ 3.0's keys: executions, concurrency limits |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from redis.exceptions import AskError, ClusterCrossSlotError

from rqstack.errors import IncompatibleSchema
from rqstack.transport import keys
from rqstack.transport.client import explain, safe_url
from rqstack.transport.replies import decode
from rqstack.transport.scripts import Script

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings

log = logging.getLogger("rqstack.schema")

VERSION = 2
"""The version that this release writes."""

OLDEST = 2
"""The lowest version of other processes that can share what this release writes.

A release whose data the release before it cannot handle raises both.
"""

SCHEMA_LUA = "transport/lua/schema.lua"
"""Defines `share_schema`, for scripts that send heartbeats."""

POLL_INTERVAL = 0.5
"""Seconds between two checks of older processes."""

_JOIN = Script(SCHEMA_LUA, "transport/lua/is_name.lua", "transport/lua/join.lua")


class SharedSchema:
    """Joins one process to those that share the data, or refuses it.

    Args:
        settings: For `dead_after`, and for the address in messages.
        url: The Redis, if it is not that of the settings.
    """

    def __init__(self, settings: Settings, url: str = "") -> None:
        self._dead_after = settings.dead_after
        self._url = url or settings.redis_url
        self._where = f"Redis at {safe_url(self._url)}"
        self._heartbeats: dict[str, tuple[str, float]] = {}
        self._joined = False
        self._reported = ""

    def join(self, client: Redis) -> bool:
        """Join, or confirm that this process still uses the data.

        Returns:
            False if older processes are on record that may be dead: ask again after `POLL_INTERVAL`. That ends after
            RQSTACK_DEAD_AFTER.

        Raises:
            BrokerUnavailable: It is a node of a cluster, and the URL is that of a plain Redis.
            IncompatibleSchema: The data is of a newer version, or older processes are alive.
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        silent: list[str] = []
        now = time.monotonic()
        for name, (heartbeat, since) in self._heartbeats.items():
            if now - since > self._dead_after:
                silent += (name, heartbeat)
        look = "" if self._joined else str(self._dead_after)
        try:
            # Not by its hash: it is called once, and redis-py then loads it, which a user may not be allowed to.
            answer, version, oldest, damaged, older = client.eval(
                _JOIN.source.decode(),
                3,
                *(keys.SCHEMA, keys.SUPERVISORS, keys.SCHEDULERS),
                *(str(VERSION), str(OLDEST), look, *silent),
            )
        except (AskError, ClusterCrossSlotError) as error:  # a node of a cluster, where a plain Redis is expected
            raise explain(error, self._url) from error
        if decode(answer) == "older":
            for row in older:
                name, theirs, heartbeat = map(decode, row)
                before, _ = self._heartbeats.setdefault(name, (heartbeat, now))
                if before != heartbeat:
                    raise IncompatibleSchema(
                        f"{self._where} is in use by {name} of an older rqstack (schema {theirs}), which cannot share "
                        f"its data with this one (schema {VERSION}). Stop the older workers and schedulers first."
                    )
            return False
        self.check((answer, version, oldest, damaged))
        self._joined = True
        return True

    def wait_to_join(self, client: Redis, on_wait: Callable[[], object] = lambda: None) -> None:
        """Join; wait while it is not clear whether older processes are alive.

        Args:
            on_wait: Called about once a second while it waits.

        Raises:
            As `join`.
        """
        while not self.join(client):
            on_wait()
            time.sleep(POLL_INTERVAL)

    def check(self, reply: Any) -> None:
        """Act on the answer of `share_schema`.

        Raises:
            IncompatibleSchema: The data is of a newer version.
        """
        answer, version, oldest, damaged = reply
        if (text := decode(damaged)) and text != self._reported:
            self._reported = text
            log.error("%s: %s is damaged (%s) and is written anew.", self._where, keys.SCHEMA, text)
        if decode(answer) == "newer":
            raise IncompatibleSchema(
                f"The data in {self._where} is of rqstack schema {version} and needs at least schema {oldest}; this "
                f"release has schema {VERSION}. Update rqstack, or use another Redis or RQ_KEY_PREFIX."
            )
