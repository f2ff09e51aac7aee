"""Readiness: what `rqstack health` asks Redis. Only a socket and hiredis: no redis-py, RQ or msgspec."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

from rqstack.cli.resp import Client, RespError, open_client
from rqstack.errors import SettingsError
from rqstack.settings.defaults import DEAD_AFTER, REDIS_URL
from rqstack.settings.sources import Sources
from rqstack.settings.tls_url import tls_url
from rqstack.transport import keys
from rqstack.transport.timestamps import parse

TIMEOUT = 2.0
"""Seconds that Redis gets to answer."""

TLS = ("REDIS_TLS_CA", "REDIS_TLS_CERT", "REDIS_TLS_KEY")
SETTINGS = ("REDIS_URL", "REDIS_USERNAME", "REDIS_PASSWORD", "RQSTACK_DEAD_AFTER", *TLS)

_LATEST = 1e11
"""Seconds since the epoch up to which a time can be one."""

SECRETS = {"REDIS_PASSWORD"}
WORKER_FIELDS = ("hostname", "last_heartbeat", "queues", "death")


class NotReady(Exception):
    """The check failed; the message is one sentence for the person on call."""


class Question(NamedTuple):
    """What to ask Redis for, beside an answer.

    Args:
        worker: Whether a worker of this host has a fresh heartbeat.
        scheduler: Whether a scheduler of this host has one.
        queues: Queues to which a live worker must listen; with `worker`, one of this host.
        max_age: Seconds after which a heartbeat is old. Default: RQSTACK_DEAD_AFTER.
    """

    worker: bool
    scheduler: bool
    queues: Sequence[str]
    max_age: float | None


def read_settings() -> dict[str, str]:
    """The settings that the check needs, by environment variable; without those left at their default.

    Raises:
        NotReady: A file cannot be read or parsed.
    """
    try:
        sources = Sources()
        found = {name: sources.find(name, secret=name in SECRETS) for name in SETTINGS}
    except SettingsError as error:
        raise NotReady(str(error)) from error
    return {name: given[0] for name, given in found.items() if given}


def check(question: Question) -> str:
    """Ask Redis.

    Returns:
        One line that says what is healthy.

    Raises:
        NotReady: Something is not, or a setting is wrong.
    """
    settings = read_settings()
    url = tls_url(settings.get("REDIS_URL", REDIS_URL), *map(settings.get, TLS))
    try:
        max_age = question.max_age or float(settings.get("RQSTACK_DEAD_AFTER", DEAD_AFTER))
    except ValueError:
        raise NotReady(f"RQSTACK_DEAD_AFTER: {settings['RQSTACK_DEAD_AFTER']!r} is not a number.") from None
    client = None
    try:
        client = open_client(url, settings.get("REDIS_USERNAME"), settings.get("REDIS_PASSWORD"), TIMEOUT)
        if question.worker or question.queues or question.scheduler:
            return "ok: " + ", ".join(_findings(client, question, max_age))
        client.call(["PING"])
        return "ok: Redis answers"
    except RespError as error:
        raise NotReady(f"Redis answers with an error: {error}.") from error
    except (OSError, ValueError) as error:
        raise NotReady(f"Redis cannot be reached: {error}.") from error
    finally:
        if client is not None:
            client.close()


def _findings(client: Client, question: Question, max_age: float) -> list[str]:
    found = []
    if question.worker or question.queues:
        workers = _alive(client, keys.WORKERS, max_age)
        host = socket.gethostname()
        if question.worker:
            workers = [worker for worker in workers if worker["hostname"] == host]
            if not workers:
                raise NotReady(f"no worker of this host ({host}) has sent a heartbeat within {max_age:g} s")
        for queue in question.queues:
            if not any(queue in worker["queues"].split(",") for worker in workers):
                raise NotReady(f"no live worker{' of this host' * question.worker} listens to the queue {queue!r}")
        if wanted := set(question.queues):
            workers = [worker for worker in workers if wanted & set(worker["queues"].split(","))]
        found.append(f"{len(workers)} live worker{'s' * (len(workers) != 1)}{' of this host' * question.worker}")
    if question.scheduler:
        host = socket.gethostname()
        mine = [each for each in _alive(client, keys.SCHEDULERS, max_age) if each["hostname"] == host]
        if not mine:
            raise NotReady(f"no scheduler of this host ({host}) has sent a heartbeat within {max_age:g} s")
        found.append("a live scheduler")
    return found


def _alive(client: Client, index: str, max_age: float) -> list[dict[str, str]]:
    """The registered workers or schedulers that have a fresh heartbeat and are not marked as dead.

    Args:
        index: The set of their keys.
    """
    # Damaged records are those of no process.
    members = [key.decode(errors="replace") for key in client.call(["SMEMBERS", index], wrong_type=())[0]]
    if not members:
        return []
    rows = client.call(*(["HMGET", key, *WORKER_FIELDS] for key in members), wrong_type=(None,) * len(WORKER_FIELDS))
    records = [
        dict(zip(WORKER_FIELDS, ((v or b"").decode(errors="replace") for v in row), strict=True)) for row in rows
    ]
    now = time.time()
    return [r for r in records if not r["death"] and now - heartbeat_time(r["last_heartbeat"]) <= max_age]


def heartbeat_time(text: str) -> float:
    """Unix time of a heartbeat, written as ISO 8601 in UTC or as a number; 0 if it is neither."""
    try:
        number = float(text)
    except ValueError:
        number = parse(text) or 0.0
    return number if abs(number) < _LATEST else 0.0
