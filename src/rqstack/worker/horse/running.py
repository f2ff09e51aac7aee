"""The job that a horse runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rqstack.worker.scripts import JOB_TIMEOUT


class Extras(NamedTuple):
    """The fields of a job's record that a plain job lacks, in the order of claim.lua.

    Args:
        on_success: Name of the function that is called after a success.
        on_success_timeout: Seconds it may run.
        on_failure: Name of the function that is called after a failure.
        on_failure_timeout: Seconds it may run.
        webhooks: JSON.
        rate_limit: The key of its RateLimit.
        webhooks_signature: See `rqstack.security.webhooks`.
    """

    on_success: bytes | None = None
    on_success_timeout: bytes | None = None
    on_failure: bytes | None = None
    on_failure_timeout: bytes | None = None
    webhooks: bytes | None = None
    rate_limit: bytes | None = None
    webhooks_signature: bytes | None = None


@dataclass(slots=True)
class RunningJob:
    """The job that a horse runs.

    Args:
        queue: The queue's name.
        job_id: The job's id.
        execution: The id of this run of it.
        data: Its payload as stored; None if its record has none, or is not to be used; its size if it was too large to
            be read.
        enqueued_at: When it was enqueued, as stored.
        extras: None for a plain job.
        started: When it began, in Unix seconds.
        damage: Why there is no data.
        timeout: Seconds it may run; 0 or less for no limit.
        name: Its function's name, as soon as it is known.
        arguments: Positional and named arguments, as soon as they are known.
        job: The job that `get_current_job()` returns, as soon as it is needed.
    """

    queue: str
    job_id: str
    execution: str
    data: bytes | int | None
    enqueued_at: bytes | None
    extras: Extras | None
    started: float
    damage: str = "it has no data, so nothing is known to run"
    timeout: int = JOB_TIMEOUT
    name: str = "unknown"
    arguments: tuple[Sequence[Any], dict[str, Any]] = ((), {})
    job: Any = None
