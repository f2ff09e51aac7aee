"""What became of a job: its state, its value, or why it failed, in a form to print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rqstack.errors import RqstackError

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings

DONE, FAILED, NOT_YET, UNKNOWN = 0, 1, 2, 3
"""Exit codes of `result` and `wait`."""

FAILURES = frozenset(("failed", "stopped", "canceled"))
ENDED = FAILURES | {"finished"}


class NoSuchJob(RqstackError):
    """Redis holds no job of this id."""

    exit_code = UNKNOWN


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job.

    Args:
        id: Its id.
        state: RQ's status.
        value: What the task returned, where it finished.
        reason: Why it failed, in one line; "" if it did not.
        details: The traceback; "" if there is none.
    """

    id: str
    state: str
    value: Any = None
    reason: str = ""
    details: str = ""

    @property
    def exit_code(self) -> int:
        return DONE if self.state == "finished" else FAILED if self.state in FAILURES else NOT_YET

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"id": self.id, "state": self.state, "value": self.value, "reason": self.reason or None}


def fetch_outcome(job_id: str, connection: Redis, settings: Settings) -> Outcome:
    """What became of a job.

    Args:
        job_id: As `trigger` printed it.
        connection: Redis.
        settings: Whose serializer reads the value.

    Raises:
        NoSuchJob: Redis holds none of this id.
        RqstackError: The value cannot be read here.
    """
    from rq.exceptions import NoSuchJobError
    from rq.job import Job

    from rqstack.security import get_serializer

    unknown = NoSuchJob(f"no job has the id {job_id!r}: it never had one, or was removed with its result.")
    try:
        job = Job(job_id, connection=connection, serializer=get_serializer(settings))
    except ValueError:  # no job can have it: ids are letters, digits, dashes and underscores
        raise unknown from None
    try:
        job.refresh()
    except NoSuchJobError:
        raise unknown from None
    except ValueError as error:
        raise RqstackError(f"the record of {job_id} in Redis is damaged: {error}.") from error
    state = str(getattr(job._status, "value", job._status))
    if state not in ENDED:
        return Outcome(job_id, state)
    result = _latest_result(job, settings)
    if state == "finished":
        return Outcome(job_id, state, result.return_value if result else job._result)
    details = (result.exc_string if result else None) or job._exc_info or ""
    return Outcome(job_id, state, reason=reason_of(details) or f"The job was {state}.", details=details)


def _latest_result(job: Any, settings: Settings) -> Any:
    try:
        return job.latest_result()
    except (ImportError, AttributeError):
        # The value is an object of the user's own class: its module is found where the tasks are.
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
    return RqstackError(f"the result of {job_id} cannot be read here: {type(error).__name__}: {error}.")


# The line of a traceback that names the exception: `package.module.Name: words`, or the name alone.
_NAMED = re.compile(r"^(?:[A-Za-z_]\w*\.)*(?P<name>[A-Za-z_]\w*)(?::(?P<words>| .*))?$")


def reason_of(traceback: str) -> str:
    """Why a job failed, in one line: the exception's name and words, without module and frames.

    Args:
        traceback: As RQ stores it, or a line of RQ's own ('Moved to FailedJobRegistry, due to …').
    """
    lines = traceback.rstrip().splitlines()
    if not lines:
        return ""
    # The exception follows the last indented line (a frame's source, or its markers); its words may have more lines.
    last = max((i for i, line in enumerate(lines) if line.startswith("  ")), default=-1)
    is_traceback = any(line.startswith("Traceback (most recent call last)") for line in lines)
    line = lines[last + 1] if is_traceback and last + 1 < len(lines) else lines[-1 if is_traceback else 0]
    if is_traceback and (found := _NAMED.match(line)):
        said = (found["words"] or "").strip()
        return f"{found['name']}: {said}" if said else str(found["name"])
    return line
