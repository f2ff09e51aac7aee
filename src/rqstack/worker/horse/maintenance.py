"""Cleans RQ's registries, as a side job: it may take long, and calls users' callbacks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from rq.job import Job

from rqstack.errors import UnknownTask
from rqstack.registry.discovery import check_callbacks
from rqstack.worker.horse.lazy_job import STORED
from rqstack.worker.horse.webhooks import send_stored_webhooks

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker


_CLOCK_OFF = 30.0
"""Seconds that the clock may differ from Redis's; beyond that, nothing is cleaned: RQ uses the local clock."""


class Maintenance(NamedTuple):
    """The side job that cleans RQ's registries."""


class CheckedJob(Job):
    """A job of a dead RQ worker. Its callback is held to the allow-list, and its webhooks must be signed."""

    def restore(self, raw_data: Any) -> None:
        """As RQ's."""
        super().restore(raw_data)
        vars(self)[STORED] = raw_data

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """As RQ's, but for webhooks that must not be sent."""
        send_stored_webhooks(self, str(getattr(status, "value", status)), exc_string or "")

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
        checked = type(worker.job_class.__name__, (CheckedJob, worker.job_class), {})
        for queue in worker.queues:
            queue.job_class = checked
        worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
    except Exception:
        worker.log.exception("Worker %s: the registries could not be cleaned", worker.name)
    return 0
