"""What runs the jobs of a worker process: RQ's queues, or a message backend's where QUEUE_BACKEND is set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rqstack.preload import preloaded_settings


def launch(
    queues: Sequence[str] = (),
    *,
    processes: int | None = None,
    burst: bool = False,
    backend: str | None = None,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Load the framework if there is one, find the tasks, and run until stopped.

    Args:
        queues: Queue names, in order of priority. Default: `settings.queues`.
        processes: Default: `settings.processes`.
        burst: End when the queues are empty.
        backend: Dotted path of a message backend, in place of the setting's.
        on_ready: Called once a consumer of a message backend runs. (A worker of RQ's queues is to be seen in Redis.)

    Returns:
        The exit code.

    Raises:
        RqstackError: The framework or the backend cannot be loaded.
    """
    settings = preloaded_settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if backend:
        settings = settings.model_copy(update={"queue_backend": backend})
    names = tuple(queues) or settings.queues
    if settings.queue_backend:
        from rqstack.discovery import autodiscover
        from rqstack.preload import preload
        from rqstack.worker.consumer import Consumer

        consumer = Consumer(names, settings, processes=processes, burst=burst, on_ready=on_ready)
        preload()
        autodiscover(settings)
        return consumer.run()
    from rqstack.worker.service import run

    return run(names, settings, processes=processes, burst=burst)
