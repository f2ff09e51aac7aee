"""The current job, loaded when a task uses it: most never do, and loading it takes longer than a short task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

_BARE = 3
"""Attributes of a lazy job that has not been used."""

_made: dict[type[Any], type[Any]] = {}


def lazy_job(job_class: type[Job], job_id: str, connection: Redis, serializer: Any) -> Job:
    """An RQ job of which only the id is known; the rest is read from Redis when an attribute is first used.

    Args:
        job_class: RQ's job class, or the user's.
        job_id: The id.
        connection: Used when the data are read.
        serializer: As for RQ's Job.
    """
    lazy_class = _made.get(job_class)
    if lazy_class is None:
        lazy_class = _made[job_class] = type(job_class.__name__, (job_class,), {"__getattr__": _load})
    job = object.__new__(lazy_class)
    job.__dict__.update(_id=job_id, connection=connection, serializer=serializer)
    return cast("Job", job)


def touched(job: Any) -> Any:
    """The lazy job if its task has used it, so that RQ's methods go on with it; else None.

    Args:
        job: The job; None if there is none.
    """
    if job is None or len(job.__dict__) <= _BARE:
        return None
    try:
        return job._status and job
    except Exception:
        return None  # deleted meanwhile, or Redis is unavailable: it is read again


def _load(job: Any, name: str) -> Any:
    # Called only while the instance lacks an attribute: before its data are read, or for a name that no job has.
    known = job.__dict__
    if "_status" in known or name.startswith("__"):
        raise AttributeError(f"{type(job).__name__!r} object has no attribute {name!r}")
    assigned = {key: value for key, value in known.items() if key not in ("_id", "connection", "serializer")}
    job.__init__(known["_id"], connection=known["connection"], serializer=known["serializer"])
    job.refresh()
    job.__dict__.update(assigned)
    return getattr(job, name)
