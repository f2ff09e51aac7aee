"""The lease of a running job."""

from __future__ import annotations

from typing import NamedTuple


class Lease(NamedTuple):
    """The lease that a worker held when its horse ended.

    Args:
        worker: The worker.
        what: requeued (the job is at the front of its queue), or abandon (it is to be failed: it has killed its
            process too often, or is not to run again).
        queue: The job's queue.
        job_id: The job's id.
        execution: The id of the execution that ended.
        supervisor: The supervisor of the worker.
    """

    worker: str
    what: str
    queue: str
    job_id: str
    execution: str
    supervisor: str
