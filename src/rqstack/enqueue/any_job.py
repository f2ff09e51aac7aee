"""Calls any_job.lua, which enqueues a job of any kind, and reads its reply."""

from __future__ import annotations

import calendar
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from rq.exceptions import DuplicateJobError
from rq.job import Job, JobStatus
from rq.utils import as_text, now, str_to_date

from rqstack.enqueue.dependencies import DependencyCycle
from rqstack.enqueue.job_fields import Field, job_hash
from rqstack.transport.scripts import Script
from rqstack.transport.timestamps import format_datetime

if TYPE_CHECKING:
    from rq import Queue

SCRIPT = Script(
    "transport/lua/write.lua",
    "enqueue/lua/push_job.lua",
    "enqueue/lua/rate_limited.lua",
    "enqueue/lua/delete_job.lua",
    "enqueue/lua/any_job.lua",
)
CALL_FIELD = "rqstack_call"
"""Field of a job's hash: the id of the call that enqueued it, if the job may have been in Redis before."""

IfExists = Literal["overwrite", "refuse", "replace"]


class AnyJob:
    """One job that is enqueued by one call of `any_job.lua`.

    Args:
        queue: The queue it goes to.
        job: The job. `read` updates it as the call has changed it in Redis.
        is_new: No job with this `created_at` is in Redis, because `job` was made for this call and not stored. That
            time then marks the call, so that the hash needs no field for it.
        if_exists: What to do about a job in Redis with the same id: 'overwrite' its fields, as RQ does; 'refuse' the
            call; 'replace' it if it has ended, and else return it.
        at_front: Put it before all others.
        when: When it is to run; None for at once.
    """

    def __init__(
        self,
        queue: Queue,
        job: Job,
        *,
        is_new: bool,
        if_exists: IfExists = "overwrite",
        at_front: bool = False,
        when: datetime | None = None,
    ) -> None:
        self.queue = queue
        self.job = job
        self.if_exists = if_exists
        self.at_front = at_front
        self.enqueued_at = now()
        self.when = when
        self._fields = job_hash(job)
        self._call_id = "" if is_new else uuid.uuid4().hex
        if not is_new:
            self._fields += CALL_FIELD, self._call_id

    def arguments(self, is_again: bool) -> list[Field]:
        """The number of keys, the keys and the arguments of the script.

        Args:
            is_again: The first try may have been done, its reply lost.
        """
        job, queue = self.job, self.queue
        mark = self._mark() if is_again else ("", "")
        limit = (job.rate_limit_key, str(job.rate_limit_concurrency)) if job.has_rate_limit else ("", "")
        return [
            *("3", job.key, queue.key, queue.redis_queues_keys),
            *(job.id, "LPUSH" if self.at_front else "RPUSH", str(job.ttl or 0), *mark, queue.name),
            *(str(int(self.enqueued_at.timestamp())), format_datetime(self.enqueued_at), self.if_exists),
            "" if self.when is None else str(_unix_seconds(self.when)),
            str(queue._default_timeout) if job.timeout is None else "",
            "1" if job.get_status(refresh=False) == JobStatus.DEFERRED else "",
            *limit,
            "1" if job.allow_dependency_failures else "",
            *(str(len(job._dependency_ids)), *job._dependency_ids),
            *self._fields,
        ]

    def _mark(self) -> tuple[str, str]:
        """The field that only this call writes, and its value."""
        if self._call_id:
            return CALL_FIELD, self._call_id
        assert self.job.created_at
        return "created_at", format_datetime(self.job.created_at)

    def read(self, reply: Sequence[Any]) -> Job:
        """The job that is enqueued now: this one, or the one that was there.

        Raises:
            rq.exceptions.DuplicateJobError: It was refused because its id exists.
            DependencyCycle: A dependency waits for the job itself.
        """
        job = self.job
        what, *others = reply
        match as_text(what):
            case "cycle":
                raise DependencyCycle(job.id, as_text(others[0]))
            case "exists":
                if self.if_exists == "refuse":
                    raise DuplicateJobError(f"Job with ID '{job.id}' already exists")
                fields = others[0]
                found = type(job)(job.id, connection=job.connection, serializer=job.serializer)
                found.restore(dict(zip(fields[::2], fields[1::2], strict=True)))
                return found
            case "again":
                job._status = JobStatus(as_text(others[0]))
                job.enqueued_at = str_to_date(others[1]) if others[1] else None
            case status:
                job._status = JobStatus(status)
                if job._status == JobStatus.QUEUED:
                    job.enqueued_at = self.enqueued_at
        was_put = job._status not in (JobStatus.DEFERRED, JobStatus.SCHEDULED)
        if was_put and job.timeout is None:
            job.timeout = self.queue._default_timeout
        if was_put and job.has_rate_limit and self.at_front:
            job.enqueue_at_front = True
        return job


def _unix_seconds(when: datetime) -> int:
    """As RQ's scheduled registry counts: a time without a zone is in this machine's."""
    return calendar.timegm((when if when.tzinfo else when.astimezone()).utctimetuple())
