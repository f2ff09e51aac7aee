"""The current job, loaded when a task uses it: most never do, and loading it takes longer than a short task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rq.exceptions import NoSuchJobError

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Job

_OURS = frozenset(("_id", "connection", "serializer", "_status", "ended_at", "_result"))
"""Attributes of a lazy job that its task has not used: set when it is made, and for its callbacks."""

STORED = "_rqstack_stored"
"""Attribute with the record as it was read; absent before."""

_KEPT = frozenset(
    (
        *(b"data", b"meta", b"status", b"origin", b"created_at", b"enqueued_at", b"started_at", b"ended_at"),
        *(b"last_heartbeat", b"worker_name"),
    )
)
"""Fields that a task does not change, or saves by itself."""

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


def load(job: Any, raw: dict[bytes, bytes]) -> None:
    """Fill a job from its record, and remember the record for `changes`.

    Args:
        job: An RQ job, lazy or not.
        raw: The fields of its hash.
    """
    job.restore(raw)
    job.__dict__[STORED] = raw


def changes(job: Any) -> dict[str, str]:
    """The fields of a job's record that its task or a callback has changed in the object, such as `retries_left`.

    RQ writes the whole object when a job ends; so what is changed in it counts.

    Args:
        job: The job; None if there is none.
    """
    if job is None or job.__dict__.keys() <= _OURS:
        return {}
    try:
        job._data  # noqa: B018 - loads it, where a task has only assigned attributes
        stored = job.__dict__[STORED]
        fields = job.to_dict(include_meta=False, include_result=False)
    except Exception:
        return {}  # deleted meanwhile, damaged, or Redis is unavailable
    found: dict[str, str] = {}
    for name, value in fields.items():
        raw = value if isinstance(value, bytes) else str(value).encode(errors="backslashreplace")
        if name.encode() not in _KEPT and raw != stored.get(name.encode(), b""):
            found[name] = raw.decode(errors="replace")
    return found


def _load(job: Any, name: str) -> Any:
    # Called only while the instance lacks an attribute: before its data are read, or for a name that no job has.
    known = job.__dict__
    if STORED in known or name.startswith("__"):
        raise AttributeError(f"{type(job).__name__!r} object has no attribute {name!r}")
    job_id, connection, serializer = known["_id"], known["connection"], known["serializer"]
    assigned = {key: value for key, value in known.items() if key not in ("_id", "connection", "serializer")}
    raw = connection.hgetall(job.key_for(job_id))
    if not raw:
        raise NoSuchJobError(f"No such job: {job.key_for(job_id)}")
    full = type(job).__mro__[1](job_id, connection=connection, serializer=serializer)
    load(full, raw)
    known.update(vars(full), **assigned)
    return getattr(job, name)
