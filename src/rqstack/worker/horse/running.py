"""The job that a horse runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class RunningJob:
    """The job that a horse runs.

    Args:
        queue: The queue's name.
        job_id: The job's id.
        execution: The id of this run of it.
        started: When it began, in Unix seconds.
        data: Its payload as stored; None if its record has none.
        timeout: Seconds it may run; 0 or less for no limit. RQ's default is 180.
        name: Its function's name, as soon as it is known.
        job: What `get_current_job()` gives the task, as soon as it runs.
        worker: The worker that ran it, where another one records it; else "".
    """

    queue: str
    job_id: str
    execution: str
    started: float
    data: bytes | None
    timeout: int = 180
    name: str = "unknown"
    job: Any = None
    worker: str = ""
