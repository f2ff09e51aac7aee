"""The leases of running jobs."""

from __future__ import annotations

from typing import NamedTuple


class Lease(NamedTuple):
    """The lease that a worker held when its horse ended.

    Args:
        worker: The worker.
        action: requeued (the job is at the front of its queue), or abandon (it is to be failed: it has killed its
            process too often, or is not to run again).
        queue: The job's queue.
        job_id: The job's id.
        execution: The id of the execution that ended.
        supervisor: The supervisor of the worker.
    """

    worker: str
    action: str
    queue: str
    job_id: str
    execution: str
    supervisor: str


def jobs_of(lease: bytes | None) -> list[tuple[str, str, str]]:
    """The jobs of a worker's lease, each its queue, its id and the id of its execution. The format is in lease.lua.

    Args:
        lease: As in Redis; None if the worker has none.
    """
    jobs = []
    for part in (lease or b"").decode(errors="replace").split("\0"):
        queue, separator, run = part.rpartition("\n")
        if separator:
            job_id, _, execution = run.rpartition(":")
            jobs.append((queue, job_id, execution))
    return jobs
