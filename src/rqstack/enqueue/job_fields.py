"""Builds a plain job and the fields of its hash, faster than RQ does.

RQ makes a job with `Job.create` and writes what `Job.to_dict` returns. Both handle every option and take a fifth of an
enqueue, but most jobs differ in few fields. `test_enqueue.py` compares the results.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from time import time_ns
from typing import TYPE_CHECKING, Any

from rq.job import UNEVALUATED, Job, JobStatus, validate_job_id
from rq.utils import parse_timeout, resolve_function_reference

from rqstack.enqueue.description import describe
from rqstack.security import for_purpose
from rqstack.security.bounded import check_size, max_payload
from rqstack.transport.timestamps import format_micros, from_micros

if TYPE_CHECKING:
    from redis import Redis
    from rq.job import Retry

Field = str | bytes
_NONE_YET: tuple[Field, ...] = (
    *("success_callback_name", "", "failure_callback_name", "", "stopped_callback_name", ""),
    *("started_at", "", "ended_at", "", "last_heartbeat", "", "worker_name", ""),
)


_STORED = 128  # bytes
_RANDOM_AT_ONCE = 256
_random: list[str] = []  # digits of ids to come; list.pop is one step for threads
os.register_at_fork(after_in_child=_random.clear)


def new_id() -> str:
    """A random job id, as `str(uuid.uuid4())`; random bytes for many ids are read from the system at once."""
    try:
        digits = _random.pop()
    except IndexError:
        text = os.urandom(16 * _RANDOM_AT_ONCE).hex()
        _random.extend(text[at : at + 32] for at in range(0, len(text) - 32, 32))
        digits = text[-32:]
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def compress(data: bytes) -> bytes:
    """What `zlib.decompress` reads back, as RQ does.

    A short payload, half of which is its signature, does not get shorter, and setting up zlib's tables takes longer
    than all other fields of a job. So it becomes a zlib stream with one stored (uncompressed) block.
    """
    size = len(data)
    if size > _STORED:
        return zlib.compress(data)
    lengths = size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little")
    return b"\x78\x01\x01" + lengths + data + zlib.adler32(data).to_bytes(4, "big")


class PendingJob:
    """A plain job on its way to its queue: what Redis gets, and the RQ job, made when it is first needed.

    So the object can be made while Redis works.

    Args:
        job_id: Its id.
        ttl: Seconds it may wait; None for no limit.
        fields: What its hash holds: the values that `plain_job.lua` names, then other fields and values.
        micros: When it was made: microseconds since 1970.
        attributes: The RQ job's other attributes.
    """

    __slots__ = ("_attributes", "_job", "_micros", "fields", "job_id", "ttl")

    def __init__(
        self, job_id: str, ttl: int | None, fields: list[Field], micros: int, *attributes: dict[str, Any]
    ) -> None:
        self.job_id = job_id
        self.ttl = ttl
        self.fields = fields
        self._micros = micros
        self._attributes = attributes
        self._job: Job | None = None

    def job(self) -> Job:
        """The RQ job."""
        job = self._job
        if job is None:
            job = self._job = Job.__new__(Job)
            for attributes in self._attributes:
                job.__dict__.update(attributes)
            job.created_at = job.enqueued_at = from_micros(self._micros)
        return job


class PlainJobs:
    """Makes jobs for one queue: no callbacks, dependencies, repeats or webhooks.

    Args:
        origin: The queue's name.
        connection: Its Redis; the jobs get it too.
        serializer: Its serializer; the jobs get it too.
    """

    def __init__(self, origin: str, connection: Redis, serializer: Any) -> None:
        self.origin = origin
        self.connection = connection
        self.serializer = serializer
        self._dumps = for_purpose(serializer, "arguments").dumps
        self._dumps_meta = for_purpose(serializer, "meta").dumps
        self._attributes = vars(Job(connection=connection, serializer=serializer))
        self._attributes |= {"origin": origin, "_instance": None, "_status": JobStatus.QUEUED}

    def make(
        self,
        func: str | Callable[..., Any],
        args: Any,
        kwargs: Any,
        timeout: int,
        result_ttl: int | None = None,
        ttl: int | None = None,
        failure_ttl: int | None = None,
        description: str | None = None,
        job_id: str | None = None,
        meta: dict[str, Any] | None = None,
        retry: Retry | None = None,
        group_id: str | None = None,
    ) -> PendingJob:
        """A queued job.

        Args:
            func: The function, or its dotted path.
            timeout: Seconds it may run; -1 for no limit.
            result_ttl: Seconds its result is kept; None for the worker's default.
            ttl: Seconds it may wait; None for no limit.
            failure_ttl: Seconds it is kept once failed; None for the worker's default.
            description: Default: as `describe`.
            job_id: Default: a random one.

        Raises:
            ValueError: The job id has characters that RQ does not allow.
            TypeError: `func` cannot be called.
            PayloadTooLarge: The arguments are larger than RQSTACK_MAX_PAYLOAD.
        """
        if job_id is None:
            job_id = new_id()
        else:
            validate_job_id(job_id)
        instance, func_name = (None, func) if type(func) is str else resolve_function_reference(func)
        args = () if args is None else args
        kwargs = {} if kwargs is None else kwargs
        description = description or describe(func_name, args, kwargs)
        data = self._dumps((func_name, instance, args, kwargs))
        check_size(data, max_payload())
        micros = time_ns() // 1000
        attributes = {
            "_id": job_id,
            "_data": data,
            "_func_name": func_name,
            "_instance": instance,
            "_args": args,
            "_kwargs": kwargs,
            "description": description,
            "timeout": timeout,
            "result_ttl": result_ttl,
            "failure_ttl": failure_ttl,
            "ttl": ttl,
            "meta": meta or {},
            "webhooks": [],
            "_dependency_ids": [],
            "group_id": group_id,
        }
        fields: list[Field] = [format_micros(micros), compress(data), self.origin, description or "", str(timeout)]
        if group_id:
            fields += ("group_id", group_id)
        if result_ttl is not None:
            fields += ("result_ttl", str(result_ttl))
        if failure_ttl is not None:
            fields += ("failure_ttl", str(failure_ttl))
        if ttl is not None:
            fields += ("ttl", str(ttl))
        if meta:
            fields += ("meta", self._dumps_meta(meta))
        if retry is not None:
            fields += ("retries_left", str(retry.max), "retry_intervals", json.dumps(retry.intervals))
            attributes["retries_left"] = retry.max
            attributes["retry_intervals"] = retry.intervals
            if retry.enqueue_at_front:
                fields += ("enqueue_at_front_on_retry", "1")
                attributes["enqueue_at_front_on_retry"] = retry.enqueue_at_front
        return PendingJob(job_id, ttl, fields, micros, self._attributes, attributes)


def sign_arguments(job: Job) -> None:
    """Sign a new job's function and arguments, where its serializer signs. RQ would serialize them as anything else."""
    if job._data is UNEVALUATED and hasattr(job.serializer, "for_purpose"):
        call = job.func_name, job.instance, job.args, job.kwargs
        job._data = for_purpose(job.serializer, "arguments").dumps(call)


def full_hash(fields: list[Field]) -> list[Field]:
    """All fields and values of a plain job's hash, alternating, from `PendingJob.fields`."""
    created_at, data, origin, description, timeout, *others = fields
    return [
        *("status", "queued", "created_at", created_at, "data", data, *_NONE_YET),
        *("group_id", "", "origin", origin, "description", description),
        *("enqueued_at", created_at, "timeout", timeout, *others),
    ]


def job_hash(job: Job) -> list[Field]:
    """The fields and values of any job's hash, alternating, as RQ writes them.

    Raises:
        PayloadTooLarge: The arguments are larger than RQSTACK_MAX_PAYLOAD.
    """
    check_size(job.data, max_payload())
    fields: list[Field] = []
    for name, value in job.to_dict().items():
        fields += name, str(value) if type(value) in (int, float) else value
    return fields


def limits_in_seconds(
    default_timeout: int, timeout: Any, result_ttl: Any, ttl: Any, failure_ttl: Any
) -> tuple[int, int | None, int | None, int | None]:
    """The four times of a job in seconds; RQ takes them as numbers and as text such as '10m'.

    Args:
        default_timeout: The queue's.

    Raises:
        ValueError: A timeout of 0, or a ttl that is not above 0, as in RQ.
        rq.exceptions.TimeoutFormatError: A text that is none of RQ's.
    """
    seconds = _seconds(timeout)
    if seconds == 0:
        raise ValueError("0 timeout is not allowed. Use -1 for infinite timeout")
    kept, kept_failed, waits = _seconds(result_ttl), _seconds(failure_ttl), _seconds(ttl)
    if waits is not None and waits <= 0:
        raise ValueError("Job ttl must be greater than 0")
    return default_timeout if seconds is None else seconds, kept, waits, kept_failed


def _seconds(given: Any) -> int | None:
    return given if given is None or type(given) is int else parse_timeout(given)
