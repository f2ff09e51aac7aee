"""RQ's job, held to the allow-list: for RQ's own code, which calls whatever function a job's record names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rqstack.errors import UnknownTask
from rqstack.registry.discovery import check_callbacks, resolve

if TYPE_CHECKING:
    from rq.job import Job

_CALLBACKS = ("success_callback", "failure_callback", "stopped_callback")
_made: dict[type[Job], type[Job]] = {}


def checked(job_class: type[Job]) -> type[Job]:
    """A job class whose callbacks and function are called only where the allow-list has them.

    Args:
        job_class: RQ's, or the user's.
    """

    def perform(job: Any) -> Any:
        resolve(job.func_name, job.instance)
        return job_class.perform(job)

    def guard(name: str) -> property:
        unchecked: Any = getattr(job_class, name)

        def callback(job: Any) -> Any:
            try:
                check_callbacks(job)
            except UnknownTask as error:
                job.log.error("Job %s: %s", job.id, error)
            return unchecked.fget(job)

        return property(callback)

    if (made := _made.get(job_class)) is not None:
        return made
    members: dict[str, Any] = {"perform": perform} | {name: guard(name) for name in _CALLBACKS}
    _made[job_class] = type(job_class.__name__, (job_class,), members)
    return _made[job_class]
