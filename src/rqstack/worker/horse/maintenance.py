"""Cleans RQ's registries, as a side job: it may take long, and calls users' callbacks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rq.job import Job

from rqstack.errors import UnknownTask
from rqstack.registry.discovery import check_callbacks

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker


_CLOCK_OFF = 30.0
"""Seconds that the clock may differ from Redis's; beyond that, nothing is cleaned: RQ uses the local clock."""


class Maintenance(NamedTuple):
    """The side job that cleans RQ's registries."""


class CheckedJob(Job):
    """A job of a dead RQ worker. Its callback is held to the allow-list."""

    @property
    def failure_callback(self) -> Any:
        """As RQ's; None where the callback is refused, which is logged."""
        try:
            check_callbacks(self)
        except UnknownTask as error:
            self.log.error("Job %s: %s", self.id, error)
        return super().failure_callback


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
        if worker.job_class is Job:
            for queue in worker.queues:
                queue.job_class = CheckedJob
        worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
    except Exception:
        worker.log.exception("Worker %s: the registries could not be cleaned", worker.name)
    return 0
