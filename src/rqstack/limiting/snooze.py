"""Puts a job back for later without counting a run: a job over its rate limit."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rq import Retry
from rq.job import JobStatus

if TYPE_CHECKING:
    from rq import Queue, Worker
    from rq.executions import Execution
    from rq.job import Job


class Snooze(Retry):
    """Returned by a job: the worker schedules it again.

    RQ's own worker understands it as the Retry that it is, though it counts it among the worker's failures and keeps a
    result of type "retried"; `snooze` does neither.

    Args:
        wait: Seconds.
    """

    def __init__(self, wait: float) -> None:
        # RQ's times are whole seconds, cut off: one more, so that the job does not come back too early to be let in.
        super().__init__(max=sys.maxsize, interval=int(wait) + 1)
        self.wait = wait


def snooze(worker: Worker, job: Job, queue: Queue, wait: float, execution: Execution) -> None:
    """Schedule a job that was claimed and not run: neither a success nor a failure, and no retry is used up.

    Called by a worker in the place of RQ's `handle_job_retry`, when the result is a `Snooze`.

    Args:
        worker: The worker that holds it.
        job: The job.
        queue: Its queue.
        wait: Seconds.
        execution: The execution that ended.
    """
    from rq.rate_limit import release_slot  # not at the head: with an older RQ, the worker says so

    with worker.connection.pipeline() as pipeline:
        pipeline.sadd(queue.redis_queues_keys, queue.key)
        job.set_status(JobStatus.SCHEDULED, pipeline=pipeline)
        pipeline.zadd(queue.scheduled_job_registry.key, {job.id: round(time.time() + wait, 3)})
        worker.cleanup_execution(job, pipeline=pipeline, execution=execution)
        pipeline.execute()
    release_slot(job)
