"""Runs a worker in this process: what `rqstack worker run` starts."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from msgspec.structs import replace

from rqstack.errors import RqstackError, WorkerError
from rqstack.processes.liveness import WORKER, Liveness
from rqstack.processes.logs import configure
from rqstack.registry.preload import preload, preloaded_settings
from rqstack.settings.unknown import unknown_settings

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings
    from rqstack.worker.worker import Worker

log = logging.getLogger("rqstack.worker")

_STOPS = (signal.SIGTERM, signal.SIGINT)

WORKER_TTL = 15
"""Seconds after which a dead worker's record expires; RQ adds 60."""


def run_worker(
    queues: Sequence[str] = (),
    *,
    processes: int | None = None,
    burst: bool = False,
    backend: str | None = None,
    on_ready: Callable[[], None] | None = None,
    logging_level: str | None = None,
    reload: bool = False,
    **options: Any,
) -> int:
    """Run a worker of RQ's queues, or of a message backend where one is set, until it is stopped or its work is done.

    Args:
        queues: Queue names, in order of priority. Default: `settings.queues`.
        processes: Default: `settings.processes`.
        burst: End when the queues are empty.
        backend: Dotted path of a message backend, in place of the setting's.
        on_ready: Called once a consumer of a message backend runs. (A worker of RQ's queues can be seen in Redis.)
        logging_level: Default: `settings.log_level`.
        reload: Replace horses when a file of the task code is saved. Default: `settings.reload`.
        options: What else `run_supervisor` takes; a message backend has no use for it.

    Returns:
        The exit code.

    Raises:
        RqstackError: The framework or the backend cannot be loaded, or a queue name is empty.
    """
    if not all(name.strip() for name in queues):
        raise RqstackError("a queue's name is empty. Name each queue, or none to use RQSTACK_QUEUES.")
    given: dict[str, Any] = {"queue_backend": backend, "log_level": logging_level and logging_level.upper()}
    given = {name: value for name, value in given.items() if value} | ({"reload": True} if reload else {})
    settings = replace(preloaded_settings(), **given)
    configure(settings)
    for line in unknown_settings():
        log.warning("%s", line)
    names = tuple(queues) or settings.queues
    if settings.queue_backend:
        from rqstack.backends.consumer import Consumer
        from rqstack.registry.discovery import autodiscover

        consumer = Consumer(names, settings, processes=processes, burst=burst, on_ready=on_ready)
        preload()
        autodiscover(settings)
        return consumer.run()
    return run_supervisor(names, settings, processes=processes, burst=burst, **options)


def run_supervisor(
    queues: Sequence[str],
    settings: Settings,
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
        settings: The settings.
        processes: Number of horses. Default: `settings.processes`.
        burst: End when the queues are empty.
        name: Name of the worker; with several processes, the beginning of their names. Default: made of the host's
            name, the process id and a random part.
        max_jobs: Jobs after which each horse ends.
        max_idle_time: Seconds without a job after which each horse ends.
        dequeue_strategy: Order of the queues: default (as given), round_robin or random.
        with_scheduler: Run a scheduler process too.
        exception_handler: Dotted paths of RQ exception handlers, called in order when a job has failed.

    Returns:
        The exit code.

    Raises:
        RqstackError: The installed RQ is of a series that is not supported.
        SettingsError: What `RQSTACK_PRELOAD` names does not load.
        BrokerUnavailable: Redis refuses the user or the password.
        IncompatibleSchema: The data in Redis is of a version that this release cannot share.
        WorkerError: A worker of this name is alive, or an exception handler does not import.
    """
    with _without_garbage_collection():
        from rqstack.transport.client import connect
        from rqstack.transport.rq_version import check_rq_version
        from rqstack.transport.schema import SharedSchema

        check_rq_version()
        from rqstack.worker.limits import Limits
        from rqstack.worker.supervisor.embedded_scheduler import EmbeddedScheduler
        from rqstack.worker.supervisor.supervisor import Supervisor
    client = connect(settings, socket_timeout=10)
    liveness = Liveness(WORKER, queues)
    if not _wait_for(client, settings, liveness):
        return 0
    SharedSchema(settings).wait_to_join(client, liveness.touch)
    count = processes or settings.processes
    workers = [_worker(client, settings, queues, label) for label in _names(name, count)]
    for worker in workers:
        worker.work_strategy = dequeue_strategy
        for path in exception_handler:
            worker.push_exc_handler(_handler(path))  # type: ignore[no-untyped-call]
        try:
            worker.register_birth()
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
    schedulers = [EmbeddedScheduler(settings)] if with_scheduler else []
    try:
        Supervisor(workers, limits, settings, schedulers).run()
    finally:
        for worker in workers:
            _deregister(worker)
    return 0


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disables garbage collection during imports, which saves a tenth of a worker's start-up time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _names(name: str | None, count: int) -> list[str]:
    name = name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:6]}"
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _worker(client: Redis, settings: Settings, queues: Sequence[str], name: str) -> Worker:
    from rqstack.enqueue.queue import Queue
    from rqstack.security import get_job_serializer
    from rqstack.worker.worker import Worker

    serializer = get_job_serializer(settings)
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
    from rq.utils import import_attribute

    try:
        return import_attribute(path)
    except (ImportError, ValueError, AttributeError) as error:
        raise WorkerError(f"The exception handler {path} cannot be imported: {error}.") from None


def _wait_for(client: Redis, settings: Settings, liveness: Liveness) -> bool:
    """Wait until Redis answers. False if a signal told us to stop waiting.

    Raises:
        BrokerUnavailable: Redis answers, but refuses the user or the password.
    """
    from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

    from rqstack.transport.client import explain
    from rqstack.transport.redis_version import lua_warning

    stopped: list[int] = []
    previous = {number: signal.signal(number, lambda signum, _: stopped.append(signum)) for number in _STOPS}
    wait = 0.1
    try:
        while not stopped:
            try:
                # Not `ping`: what the server says of itself is an answer as well.
                if warning := lua_warning(client.info("server")):
                    log.warning("%s", warning)
                return True
            except (AuthenticationError, NoPermissionError, ResponseError) as error:
                raise explain(error, settings.redis_url) from None
            except RedisError as error:
                log.warning("%s Trying again in %.1f s.", explain(error, settings.redis_url), wait)
                liveness.touch()
            time.sleep(wait)
            wait = min(wait * 2, 2.0)
        return False
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _deregister(worker: Worker) -> None:
    from redis.exceptions import RedisError

    try:
        worker.teardown()  # type: ignore[no-untyped-call]
    except RedisError as error:
        worker.log.warning(
            "Worker %s: it could not be deregistered (%s); its record expires by itself", worker.name, error
        )
