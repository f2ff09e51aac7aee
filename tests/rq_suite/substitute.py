"""Puts this project's worker and queue where RQ's are, and a Redis of one's own where RQ's tests expect theirs.

Used by the plugin in the process that runs RQ's tests, and by `site/sitecustomize.py` in each process they start.
"""

from __future__ import annotations

import os
import sys
from types import FunctionType, ModuleType
from typing import Any

RQ_TESTS_PORT = 6379  # RQ's tests name it nowhere, or in a URL


def own_redis(port: int) -> None:
    """Let every connection to Redis's usual port go to another."""
    from redis.connection import Connection

    original = Connection.__init__

    def connect_elsewhere(self: Any, *args: Any, **kwargs: Any) -> None:
        if not args and kwargs.get("port", RQ_TESTS_PORT) == RQ_TESTS_PORT:
            kwargs["port"] = port
        original(self, *args, **kwargs)

    Connection.__init__ = connect_elsewhere  # type: ignore[method-assign]


def own_classes(what: str) -> None:
    """Replace RQ's classes in all of RQ's modules.

    Args:
        what: `worker`, `queue`, `both` or `none`.
    """
    import rq.cli
    import rq.cron
    import rq.scheduler
    import rq.worker.base
    import rq.worker_pool

    replaced: list[tuple[Any, Any]] = []
    if what in ("queue", "both"):
        from rqstack.enqueue import Queue

        replaced.append((rq.Queue, Queue))
        rq.worker.base.BaseWorker.queue_class = Queue
    if what in ("worker", "both"):
        from rqstack import worker

        own: type = worker.Worker
        replaced.append((rq.worker.Worker, own))
    swap = {id(theirs): ours for theirs, ours in replaced}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, ModuleType) or name.partition(".")[0] != "rq":
            continue
        for attribute, value in list(vars(module).items()):
            # The workers' own module is left: RQ's other workers are made of them.
            if id(value) in swap and name != "rq.worker.worker_classes":
                setattr(module, attribute, swap[id(value)])
            for function in (value, *vars(value).values()) if isinstance(value, type) else (value,):
                if isinstance(function, FunctionType) and function.__module__ == name and function.__defaults__:
                    function.__defaults__ = tuple(swap.get(id(given), given) for given in function.__defaults__)


def install() -> None:
    """Do both as the environment says, where it says so."""
    if port := os.environ.get("RQ_SUITE_PORT"):
        own_redis(int(port))
        own_classes(os.environ.get("RQ_SUITE_CLASSES", "both"))
