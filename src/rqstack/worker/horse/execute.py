"""Executes the function of a plain job: reads its payload, limits its time, serializes what it returns."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from base64 import b64encode
from collections.abc import Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from rq.exceptions import DeserializationError
from rq.job import _current_job
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from rq.utils import parse_timeout

from rqstack.errors import InvalidJob, PayloadRejected
from rqstack.registry.discovery import resolve
from rqstack.security import for_purpose
from rqstack.security.bounded import check_size, inflate, max_payload
from rqstack.worker.horse.lazy_job import lazy_job
from rqstack.worker.horse.timeout import JobTimeout

if TYPE_CHECKING:
    from rqstack.worker.base import BaseWorker
    from rqstack.worker.horse.running import RunningJob


_FOR_EVER = 10**10
"""Seconds from which on a result is kept for ever: beyond some number Redis takes no time to live."""


class Executor:
    """Runs plain jobs.

    Args:
        worker: The RQ worker that runs them.
    """

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._loads = for_purpose(worker.serializer, "arguments").loads
        self._dumps = for_purpose(worker.serializer, "result").dumps
        self._most = max_payload()
        self._timeout = JobTimeout() if worker.death_penalty_class is UnixSignalDeathPenalty else None

    def execute(self, running: RunningJob, data: bytes) -> Any:
        """Call a plain job's function, within its time.

        Args:
            running: The job; its function's name, and what `get_current_job()` gives, are noted in it.
            data: Its payload, as stored.

        Raises:
            BaseException: Whatever the task raises.
            PayloadRejected: The payload is not signed, or by another key.
            PayloadTooLarge: It is larger than RQSTACK_MAX_PAYLOAD.
            DeserializationError: It cannot be read.
            UnknownTask: The function is not one of the tasks.
        """
        worker = self._worker
        with contextlib.suppress(zlib.error):  # RQ reads payloads that are not compressed, too
            data = inflate(data, self._most)
        running.name, instance, args, kwargs = self.read(data)
        running.arguments = args, kwargs
        function = resolve(running.name, instance)
        running.job = lazy_job(worker.job_class, running.job_id, worker.connection, worker.serializer)
        token = _current_job.set(running.job)
        try:
            if running.timeout <= 0:
                return _call(function, args, kwargs)
            if self._timeout is not None:
                with self._timeout(running.timeout):
                    return _call(function, args, kwargs)
            with worker.death_penalty_class(running.timeout, JobTimeoutException, job_id=running.job_id):
                return _call(function, args, kwargs)
        finally:
            _current_job.reset(token)

    def read(self, data: bytes) -> tuple[str, Any, tuple[Any, ...] | list[Any], dict[str, Any]]:
        """The name of a job's function, the object it belongs to, and its arguments, once their signature is verified.

        Args:
            data: The job's payload, not compressed.

        Raises:
            PayloadRejected: It is not signed as arguments, or by another key.
            DeserializationError: It cannot be read.
        """
        try:
            name, instance, args, kwargs = self._loads(data)
            if type(name) is not str or type(kwargs) is not dict or not isinstance(args, list | tuple):
                raise TypeError("they are not a name, an object, positional and named arguments")
        except PayloadRejected:
            raise
        except Exception as error:
            raise DeserializationError(f"the job's function and arguments cannot be read: {error}") from error
        return name, instance, args, kwargs

    def serialize_result(self, value: Any) -> bytes:
        """A return value, as RQ stores it.

        Raises:
            InvalidJob: It does not pickle (RQ stores a text that says so, as if the task had returned it), or is too
                large.
        """
        try:
            serialized = self._dumps(value)
            check_size(serialized, self._most)
            return b64encode(serialized)
        except Exception as error:
            kind = type(value).__name__
            raise InvalidJob(f"the task returned a {kind} that cannot be stored: {error}") from error


def _call(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    value = function(*args, **kwargs)
    if type(value) is CoroutineType:
        return asyncio.run(value)
    return value


def seconds(text: bytes) -> int:
    """A job's timeout; RQ writes a number, or text such as 10m."""
    try:
        return int(text)
    except ValueError:
        return int(parse_timeout(text.decode()) or 0)


def result_ttl(running: RunningJob, text: bytes) -> int:
    """How many seconds a job's result is kept; -1 for no limit.

    Raises:
        InvalidJob: It is not a number.
    """
    try:
        kept = int(text)
    except ValueError:
        reason = f"its result_ttl is {text.decode(errors='replace')!r}"
        raise InvalidJob(f"the record of job {running.job_id} in Redis is damaged: {reason}.") from None
    return kept if 0 <= kept < _FOR_EVER else -1
