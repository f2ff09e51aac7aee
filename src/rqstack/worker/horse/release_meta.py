"""Adds the release of the task code that runs a job to its meta, if the job has meta of its own."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from rqstack.security import for_purpose
from rqstack.transport import keys
from rqstack.transport.job_record import set_fields

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker


def note_release(worker: BaseWorker, job_id: str, release: str) -> None:
    """Write the release into a job's meta. Does nothing if the meta cannot be read or written: it is information only.

    Args:
        worker: Its connection and serializer are used.
        job_id: The job.
        release: The release's name.
    """
    key = keys.JOB + job_id
    with contextlib.suppress(RedisError):
        raw = worker.connection.hget(key, "meta")
        serializer = for_purpose(worker.serializer, "meta")
        try:
            meta = serializer.loads(raw)  # type: ignore[arg-type]
        except Exception:
            return
        if isinstance(meta, dict):
            set_fields(worker.connection, key, {"meta": serializer.dumps({**meta, "release": release})})
