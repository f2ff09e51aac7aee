"""Fetches the outcome of a job: its state, its result, or why it failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rqstack.errors import RqstackError

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings

DONE, FAILED, NOT_ENDED, UNKNOWN = 0, 1, 2, 3
"""Exit codes of `result` and `wait`."""

FAILURES = frozenset(("failed", "stopped", "canceled"))
ENDED = FAILURES | {"finished"}


class NoSuchJob(RqstackError):
    """No job has this id."""

    exit_code = UNKNOWN


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a job.

    Args:
        state: RQ's status.
        value: The return value of a finished job.
        reason: One line on why it failed; "" if it did not.
        details: The traceback; "" if there is none.
    """

    id: str
    state: str
    value: Any = None
    reason: str = ""
    details: str = ""

    @property
    def exit_code(self) -> int:
        return DONE if self.state == "finished" else FAILED if self.state in FAILURES else NOT_ENDED

    def as_dict(self) -> dict[str, Any]:
        """The fields for JSON output."""
        return {"id": self.id, "state": self.state, "value": self.value, "reason": self.reason or None}


def fetch_outcome(job_id: str, connection: Redis, settings: Settings) -> Outcome:
    """Fetch the outcome of a job.

    Raises:
        NoSuchJob: No job has this id.
        RqstackError: The result cannot be deserialized.
    """
    from rq.job import Job, JobStatus

    from rqstack.security import for_purpose, get_serializer
    from rqstack.security.rq_records import guard_rq

    guard_rq()
    unknown = NoSuchJob(f"no job has the id {job_id!r}: it never existed, or has expired or been deleted.")
    try:
        job = Job(job_id, connection=connection, serializer=for_purpose(get_serializer(settings), "result"))
    except ValueError:  # not a valid id: letters, digits, dashes and underscores
        raise unknown from None
    # Not the whole record: parts of it may be damaged, which is why the job has failed.
    status: Any = connection.hget(job.key, "status")
    if status is None:
        raise unknown
    state = status.decode(errors="replace")
    if state not in {known.value for known in JobStatus}:
        raise RqstackError(f"the record of {job_id} in Redis is damaged: its status is {state!r}.")
    if state not in ENDED:
        return Outcome(job_id, state)
    result = _latest_result(job, settings)
    if state == "finished":
        return Outcome(job_id, state, result.return_value if result else None)
    details = (result.exc_string if result else None) or ""
    return Outcome(job_id, state, reason=reason_of(details) or f"The job was {state}.", details=details)


def _latest_result(job: Any, settings: Settings) -> Any:
    try:
        return job.latest_result()
    except (ImportError, AttributeError):
        # The value may be an instance of a class in the task code, so make that importable and try again.
        from rqstack.registry.discovery import autodiscover

        autodiscover(settings)
    except RqstackError:
        raise
    except Exception as error:
        raise _unreadable(job.id, error) from error
    try:
        return job.latest_result()
    except Exception as error:
        raise _unreadable(job.id, error) from error


def _unreadable(job_id: str, error: Exception) -> RqstackError:
    return RqstackError(f"the result of {job_id} cannot be deserialized: {type(error).__name__}: {error}.")


# The last line of a traceback: `package.module.Name: message`, or only the name.
_EXCEPTION_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Za-z_]\w*)(?::(?P<message>| .*))?$")


def reason_of(traceback: str) -> str:
    """One line on why a job failed: the name and message of the exception.

    Args:
        traceback: As RQ stores it, or a line by RQ ('Moved to FailedJobRegistry, due to …').
    """
    lines = traceback.rstrip().splitlines()
    if not lines:
        return ""
    # The exception follows the last indented line (source or markers of a frame). Its message may have several lines.
    last = max((i for i, line in enumerate(lines) if line.startswith("  ")), default=-1)
    is_traceback = any(line.startswith("Traceback (most recent call last)") for line in lines)
    line = lines[last + 1] if is_traceback and last + 1 < len(lines) else lines[-1 if is_traceback else 0]
    if is_traceback and (match := _EXCEPTION_LINE.match(line)):
        message = (match["message"] or "").strip()
        return f"{match['name']}: {message}" if message else str(match["name"])
    return line
