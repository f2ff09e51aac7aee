"""What runs the jobs of a worker process: RQ's queues, or a message backend's where QUEUE_BACKEND is set."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from rqstack.errors import RqstackError
from rqstack.logs import configure
from rqstack.preload import preloaded_settings


def launch(
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
    """Load the framework if there is one, find the tasks, and run until stopped.

    Args:
        queues: Queue names, in order of priority. Default: `settings.queues`.
        processes: Default: `settings.processes`.
        burst: End when the queues are empty.
        backend: Dotted path of a message backend, in place of the setting's.
        logging_level: Default: `settings.log_level`.
        reload: Replace horses when a file of the task code is saved. Default: `settings.reload`.
        options: What else `rqstack.worker.service.run` takes; a message backend has no use for it.
        on_ready: Called once a consumer of a message backend runs. (A worker of RQ's queues is to be seen in Redis.)

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
    names = tuple(queues) or settings.queues
    if settings.queue_backend:
        from rqstack.discovery import autodiscover
        from rqstack.preload import preload
        from rqstack.worker.consumer import Consumer

        consumer = Consumer(names, settings, processes=processes, burst=burst, on_ready=on_ready)
        preload()
        autodiscover(settings)
        return consumer.run()
    # What is imported is no garbage, and to look for some takes a tenth of a worker's start.
    gc.disable()
    try:
        from rqstack.worker.service import run
    finally:
        gc.freeze()
        gc.enable()
    return run(names, settings, processes=processes, burst=burst, **options)
