"""Cleans RQ's registries, as a side job: it may take long, and calls users' callbacks.

RQ's own loop ends at the first damaged record, and then cleans nothing any more. Here each record is handled alone, and
one that is damaged is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError, ResponseError
from rq.exceptions import NoSuchGroupError
from rq.group import Group
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, validate_job_id
from rq.rate_limit import RateLimitRegistry
from rq.registry import ReadyJobRegistry, StartedJobRegistry
from rq.utils import current_timestamp
from rq.worker_registration import clean_worker_registry

from rqstack.registry.checked_job import checked
from rqstack.transport import keys
from rqstack.transport.damaged import drop_wrong_types, name_of
from rqstack.transport.errors import is_damage
from rqstack.worker.horse.lazy_job import STORED
from rqstack.worker.horse.webhooks import send_stored_webhooks

if TYPE_CHECKING:
    from rq import Queue

    from rqstack.worker.base import BaseWorker


_CLOCK_OFF = 30.0
"""Seconds that the clock may differ from Redis's; beyond that, nothing is cleaned: RQ uses the local clock."""

_MOST = 10_000
"""Records of one registry that one cleaning looks at."""


class Maintenance(NamedTuple):
    """The side job that cleans RQ's registries."""


class SignedWebhooks(Job):
    """A job of a dead RQ worker. Its webhooks must be signed."""

    def restore(self, raw_data: Any) -> None:
        """As RQ's."""
        super().restore(raw_data)
        vars(self)[STORED] = raw_data

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """As RQ's, but for webhooks that must not be sent."""
        send_stored_webhooks(self, str(getattr(status, "value", status)), exc_string or "")


class _Expired(StartedJobRegistry):
    """RQ's registry of started jobs, without entries that no worker has written."""

    def get_expired_job_ids(self, timestamp: float | None = None) -> list[str]:
        found: Any = self.connection.zrangebyscore(self.key, 0, timestamp or current_timestamp())
        names = [name.rpartition(":")[0] for raw in found if (name := name_of(raw))]
        return [name for name in names if _is_id(name)]


class _One(IntermediateQueue):
    """An intermediate queue of which one job is looked at."""

    job_id = ""

    def get_job_ids(self) -> list[str]:
        return [self.job_id]


def maintain(worker: BaseWorker) -> int:
    """Clean the registries of a worker's queues, as RQ's workers do.

    Args:
        worker: The RQ worker whose queues are cleaned.

    Returns:
        The exit code of the side job: 0, since the next cleaning comes by itself.
    """
    try:
        # Asked here, and not when the side job was sent: a clock may jump at any time.
        seconds, micros = worker.connection.time()
        ahead = time.time() - seconds - micros / 1e6
        if abs(ahead) > _CLOCK_OFF:
            worker.log.warning(
                "This machine's clock is off by %.0f s from Redis's, so registries are not cleaned from here: jobs of "
                "others would seem to be abandoned. Set the clock.",
                ahead,
            )
            return 0
        worker.scheduler = None
        job_class = type(worker.job_class.__name__, (SignedWebhooks, checked(worker.job_class)), {})
        for queue in worker.queues:
            queue.job_class = job_class
            _renew(worker, queue.registry_cleaning_key)
            if queue.acquire_maintenance_lock():
                worker.log.info("Worker %s: cleaning registries for queue: %s", worker.name, queue.name)
                _clean_queue(worker, queue)
                queue.release_maintenance_lock()
        _clean_limits(worker)
        _renew(worker, Group.REDIS_GROUP_CLEANING_KEY)
        if Group.acquire_maintenance_lock(worker.connection, max(int(worker.maintenance_interval) - 1, 1)):
            worker.log.info("Worker %s: cleaning group registries", worker.name)
            _clean_groups(worker)
    except Exception:
        worker.log.exception("Worker %s: the registries could not be cleaned", worker.name)
    return 0


def _renew(worker: BaseWorker, lock: str) -> None:
    """Drop a lock that never expires, which RQ does not write."""
    if worker.connection.ttl(lock) == -1:
        worker.connection.delete(lock)


def _clean_queue(worker: BaseWorker, queue: Queue) -> None:
    name, client = queue.name, worker.connection
    types = {prefix + name: "zset" for prefix in keys.REGISTRIES.values()}
    types |= {keys.WORKERS: "set", keys.QUEUE_WORKERS + name: "set", queue.intermediate_queue.key: "list"}
    drop_wrong_types(client, types)
    queue.finished_job_registry.cleanup()
    queue.failed_job_registry.cleanup()
    expired = _Expired(name, client, queue.job_class, serializer=queue.serializer)
    for raw, score in _scored(client, expired.key):
        _try(
            worker,
            f"an expired run of {name}",
            lambda score=score: expired.cleanup(score, worker._exc_handlers),  # type: ignore[misc]
            lambda raw=raw: client.zrem(expired.key, raw),  # type: ignore[misc]
        )
    ready = ReadyJobRegistry(name, client, queue.job_class, serializer=queue.serializer)
    for raw in _first(client.zrange(ready.key, 0, _MOST)):
        _try(
            worker,
            f"a ready job of {name}",
            lambda raw=raw: ready.enqueue_jobs([raw.decode()]),  # type: ignore[misc]
            lambda raw=raw: client.zrem(ready.key, raw),  # type: ignore[misc]
        )
    _try(worker, f"the workers of {name}", lambda: clean_worker_registry(queue), lambda: None)
    for raw in _first(client.lrange(queue.intermediate_queue.key, 0, _MOST)):
        one = _One(queue.key, client)
        _try(
            worker,
            f"an intermediate job of {name}",
            lambda raw=raw, one=one: _clean_one(one, raw.decode(), worker, queue),  # type: ignore[misc]
            lambda raw=raw, one=one: client.lrem(one.key, 0, raw),  # type: ignore[misc]
        )


def _clean_one(one: _One, job_id: str, worker: BaseWorker, queue: Queue) -> None:
    one.job_id = job_id
    one.cleanup(worker, queue)


def _clean_limits(worker: BaseWorker) -> None:
    client = worker.connection
    drop_wrong_types(client, {keys.LIMIT_NAMES: "set"})
    for raw in _first(client.smembers(keys.LIMIT_NAMES)):

        def clean(raw: bytes = raw) -> None:
            limit = RateLimitRegistry(key=raw.decode(), connection=client)
            drop_wrong_types(
                client, {limit.allowed_key: "zset", limit.rate_limited_key: "zset", limit.config_key: "hash"}
            )
            limit.cleanup()

        _try(worker, "a rate limit", clean, lambda raw=raw: client.srem(keys.LIMIT_NAMES, raw))  # type: ignore[misc]


def _clean_groups(worker: BaseWorker) -> None:
    client = worker.connection
    drop_wrong_types(client, {Group.REDIS_GROUP_KEY: "set"})
    for raw in _first(client.smembers(Group.REDIS_GROUP_KEY)):

        def forget(raw: bytes = raw) -> None:
            client.srem(Group.REDIS_GROUP_KEY, raw)

        def clean(raw: bytes = raw, forget: Callable[[], None] = forget) -> None:
            try:
                group = Group.fetch(raw.decode(), connection=client)
                drop_wrong_types(client, {group.key: "set"})
                group.cleanup()
                if not client.exists(group.key):
                    forget()
            except NoSuchGroupError:
                forget()

        _try(worker, "a group", clean, forget)


def _try(worker: BaseWorker, what: str, clean: Callable[[], object], drop: Callable[[], object]) -> None:
    """Clean one record; drop it if it is damaged.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    try:
        clean()
    except Exception as error:
        if isinstance(error, RedisError) and not (isinstance(error, ResponseError) and is_damage(error)):
            raise
        worker.log.error("Worker %s: %s is damaged in Redis, and is dropped: %s", worker.name, what, error)
        drop()


def _scored(client: Any, key: str) -> list[tuple[bytes, float]]:
    found = client.zrangebyscore(key, 0, current_timestamp(), start=0, num=_MOST, withscores=True)
    return [(raw, score) for raw, score in found]


def _first(members: Any) -> list[bytes]:
    found: Iterable[bytes] = members
    return list(found)[:_MOST]


def _is_id(name: str) -> bool:
    try:
        validate_job_id(name)
    except ValueError:
        return False
    return True
