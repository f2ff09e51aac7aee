"""Reads a job's record into RQ's object, even if the record is damaged."""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Any

from rq.job import Job

from rqstack.errors import PayloadTooLarge
from rqstack.security.bounded import inflate, max_payload
from rqstack.worker.horse.lazy_job import load

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker


def read_job(worker: BaseWorker, job_id: str, queue: str, timeout: int) -> Job | None:
    """Read a job; of a damaged record, as much as can be read.

    Args:
        worker: Its connection, job class and serializer are used.
        queue: The job's queue, where its record does not say so.
        timeout: Seconds it may run, where its record is damaged.

    Returns:
        The job; None if it was deleted.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    raw: Any = worker.connection.hgetall(Job.key_for(job_id))
    if not raw:
        return None
    job = worker.job_class(job_id, connection=worker.connection, serializer=worker.serializer)
    try:
        load(job, raw)
    except Exception as error:
        job = worker.job_class(job_id, connection=worker.connection, serializer=worker.serializer)
        job.data = raw.get(b"data", b"")
        with contextlib.suppress(zlib.error, PayloadTooLarge):
            job.data = inflate(job.data, max_payload())
        job.timeout = timeout
        job.description = f"damaged record: {error}"
    job.origin = job.origin or queue
    return job
