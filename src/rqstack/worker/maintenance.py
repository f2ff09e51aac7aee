"""RQ's cleaning of registries, in a process of its own: it may take long, and calls users' callbacks."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from rq.job import Job

from rqstack.discovery import check_callbacks
from rqstack.errors import UnknownTask

if TYPE_CHECKING:
    from rqstack.worker.worker import Worker


class Maintenance(NamedTuple):
    """The errand; it has no details."""


class CheckedJob(Job):
    """A job of a dead RQ worker. Its callback is held to the allow-list, and cannot end the cleaning."""

    def execute_failure_callback(
        self,
        death_penalty_class: Any,
        exc_type: type[BaseException],
        exc_value: BaseException,
        trace: TracebackType | None,
    ) -> None:
        """As RQ's, but what goes wrong is logged."""
        try:
            check_callbacks(self)
            super().execute_failure_callback(death_penalty_class, exc_type, exc_value, trace)
        except UnknownTask as error:
            self.log.error("Job %s: %s", self.id, error)
        except Exception:
            self.log.exception("Job %s: its failure callback failed", self.id)


def maintain(worker: Worker) -> int:
    """Clean the registries of a worker's queues, as RQ's workers do.

    Args:
        worker: In whose name.

    Returns:
        The exit code of the errand: 0, since the next cleaning comes by itself.
    """
    try:
        worker.scheduler = None
        if worker.job_class is Job:
            for queue in worker.queues:
                queue.job_class = CheckedJob
        worker.run_maintenance_tasks()  # type: ignore[no-untyped-call]
    except Exception:
        worker.log.exception("Worker %s: the registries could not be cleaned", worker.name)
    return 0
