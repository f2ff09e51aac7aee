"""A worker as a service: what `rqstack worker run` starts."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from rq.utils import import_attribute

from rqstack.connections import connect, explain
from rqstack.enqueue import Queue
from rqstack.errors import WorkerError
from rqstack.security import get_serializer
from rqstack.settings import Settings, get_settings
from rqstack.worker.companion import Companion
from rqstack.worker.limits import Limits
from rqstack.worker.supervisor import Supervisor
from rqstack.worker.worker import Worker

if TYPE_CHECKING:
    from redis import Redis

log = logging.getLogger("rqstack.worker")

_STOPS = (signal.SIGTERM, signal.SIGINT)

WORKER_TTL = 15
"""Seconds (and RQ's 60 besides) after which a dead worker's record expires."""


def run(
    queues: Sequence[str],
    settings: Settings | None = None,
    *,
    processes: int | None = None,
    burst: bool = False,
    name: str | None = None,
    max_jobs: int | None = None,
    max_idle_time: float | None = None,
    dequeue_strategy: str = "default",
    with_scheduler: bool = False,
    exception_handler: Sequence[str] = (),
) -> int:
    """Run a supervisor with its horses until it is stopped, or until its work is done.

    Args:
        queues: Queue names, in order of priority.
        settings: Default: the process's own.
        processes: Horses. Default: `settings.processes`.
        burst: End when the queues are empty.
        name: Name of the worker; with several processes, the beginning of their names. Default: made of the host's
            name, the process id and a random part.
        max_jobs: End after this many jobs, each horse.
        max_idle_time: End after this many seconds without a job, each horse.
        dequeue_strategy: Order of the queues: default (as given), round_robin or random.
        with_scheduler: Run a scheduler process too.
        exception_handler: Dotted paths of RQ exception handlers, called in order when a job has failed.

    Returns:
        The exit code.

    Raises:
        SettingsError: What `RQSTACK_PRELOAD` names does not load.
        BrokerUnavailable: Redis refuses the user or the password.
        WorkerError: A worker of this name is alive, or an exception handler does not import.
    """
    settings = settings or get_settings()
    client = connect(settings, socket_timeout=10)
    if not _wait_for(client, settings):
        return 0
    count = processes or settings.processes
    workers = [_worker(client, settings, queues, label) for label in _names(name, count)]
    for worker in workers:
        worker.work_strategy = dequeue_strategy
        for path in exception_handler:
            worker.push_exc_handler(_handler(path))  # type: ignore[no-untyped-call]
        try:
            worker.register_birth()  # type: ignore[no-untyped-call]
        except ValueError as error:
            raise WorkerError(f"{error}. Stop it first, or choose another --name.") from None
    workers[0].log.info("Worker %s: %d horses on %s", workers[0].name, count, ", ".join(queues))
    limits = Limits(
        burst=burst,
        max_jobs=max_jobs,
        recycle_jobs=settings.max_jobs,
        max_rss=settings.max_rss,
        max_idle=max_idle_time,
    )
    try:
        Supervisor(workers, limits, settings, [Companion(settings)] if with_scheduler else []).run()
    finally:
        for worker in workers:
            _bid_farewell(worker)
    return 0


def _names(name: str | None, count: int) -> list[str]:
    name = name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _worker(client: Redis, settings: Settings, queues: Sequence[str], name: str) -> Worker:
    serializer = get_serializer(settings)
    return Worker(
        [Queue(queue, connection=client, serializer=serializer) for queue in queues],
        name=name,
        connection=client,
        serializer=serializer,
        queue_class=Queue,
        default_result_ttl=settings.result_ttl,
        worker_ttl=WORKER_TTL,
    )


def _handler(path: str) -> Any:
    try:
        return import_attribute(path)
    except (ImportError, ValueError, AttributeError) as error:
        raise WorkerError(f"The exception handler {path} cannot be imported: {error}.") from None


def _wait_for(client: Redis, settings: Settings) -> bool:
    """Wait until Redis answers. False if a signal told us to stop waiting.

    Raises:
        BrokerUnavailable: Redis answers, but refuses the user or the password.
    """
    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda signum, _: stopped.append(signum)) for number in _STOPS}
    wait = 0.1
    try:
        while not stopped:
            try:
                client.ping()
                return True
            except (AuthenticationError, NoPermissionError, ResponseError) as error:
                raise explain(error, settings.redis_url) from None
            except RedisError as error:
                log.warning("%s Trying again in %.1f s.", explain(error, settings.redis_url), wait)
            time.sleep(wait)
            wait = min(wait * 2, 2.0)
        return False
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _bid_farewell(worker: Worker) -> None:
    try:
        worker.teardown()  # type: ignore[no-untyped-call]
    except RedisError as error:
        worker.log.warning("Worker %s: Redis is away (%s); its record expires by itself", worker.name, error)
