"""Enqueues the calls of a task: checks the call, merges the options, passes it to a queue."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rqstack.enqueue.publisher import get_publisher
from rqstack.errors import InvalidJob
from rqstack.registry.options import TaskOptions
from rqstack.settings import get_settings
from rqstack.transport.client import explain

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue
    from rq.job import Job

    from rqstack.enqueue.task_protocol import EnqueuedTask

_TASK_OPTIONS = frozenset(
    ("retries", "backoff", "timeout", "result_ttl", "failure_ttl", "ttl", "unique", "at_front", "description", "meta")
)
_JOB_OPTIONS = frozenset(
    ("queue", "at", "in_", "job_id", "depends_on", "on_success", "on_failure", "on_stopped", "repeat", "webhooks")
)
_CONNECTION_OPTIONS = frozenset(("connection", "pipeline"))


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one job."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None


def enqueue(task: EnqueuedTask, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> Job:
    """Enqueue one job of a task. Arguments, result and errors as `Task.enqueue`."""
    if not options and task.is_plain and get_publisher() is None:
        # Most calls by far: what follows below would find nothing to do, and takes as long as the rest.
        _check_call(task, args, kwargs)
        queue = _queue(task.options.queue, None)
        try:
            return queue.enqueue_call(task.name, args, kwargs)
        except Exception as error:
            raise _reason(task, error, queue, [Call(args, kwargs)]) from error
    merged, given = _options(task, options)
    if (publisher := get_publisher()) is not None:
        _check_call(task, args, kwargs)
        call: Job = publisher.publish(task, args, kwargs, merged, given)
        return call
    queue = _queue(given.pop("queue", merged.queue), given.pop("connection", None))
    _check_call(task, args, kwargs)
    when = _when(task, given.pop("at", None), given.pop("in_", None))
    fields = _fields(merged, given)
    pipeline = given.get("pipeline")
    if merged.unique and "job_id" not in fields:
        fields["job_id"] = unique_id(task, args, kwargs, merged)
    try:
        if merged.unique:
            return _enqueue_unique(queue, task, args, kwargs, fields, when)
        if when is not None:
            job = _later(queue, task, args, kwargs, fields)
            return queue.schedule_job(job, when, pipeline=pipeline)
        return queue.enqueue_call(task.name, args=args, kwargs=kwargs, pipeline=pipeline, **fields)
    except Exception as error:
        raise _reason(task, error, queue, [Call(args, kwargs)]) from error


def enqueue_many(task: EnqueuedTask, calls: Iterable[Call | tuple[Any, ...]], options: dict[str, Any]) -> list[Job]:
    """Enqueue many jobs of a task. Arguments, result and errors as `Task.enqueue_many`."""
    checked = [_as_call(task, call) for call in calls]
    if "job_id" in options:
        raise InvalidJob(f"{task.name}: enqueue_many() cannot give one job_id to many jobs.")
    merged, given = _options(task, options)
    if not checked:
        return []
    if (publisher := get_publisher()) is not None:
        return [publisher.publish(task, call.args, call.kwargs or {}, merged, dict(given)) for call in checked]
    if merged.unique or "at" in given or "in_" in given:
        return [enqueue(task, call.args, call.kwargs or {}, options) for call in checked]
    queue = _queue(given.pop("queue", merged.queue), given.pop("connection", None))
    pipeline = given.pop("pipeline", None)
    try:
        # Fields are made for each job: the random part of a backoff differs.
        data = [
            queue.prepare_data(task.name, args=call.args, kwargs=call.kwargs, **_fields(merged, given))
            for call in checked
        ]
        return queue.enqueue_many(data, pipeline=pipeline)
    except Exception as error:
        raise _reason(task, error, queue, checked) from error


def unique_id(task: EnqueuedTask, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> str:
    """The job id that stands for a task and its arguments; f(1) and f(x=1) are the same."""
    if callable(options.unique):
        text = str(options.unique(*args, **kwargs)).encode()
    else:
        bound = task.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            text = json.dumps(bound.arguments, sort_keys=True, default=_digest).encode()
        except (TypeError, ValueError, AttributeError, pickle.PicklingError) as error:
            raise _unstorable(task, error) from error
    return f"unique-{hashlib.sha256(task.name.encode() + b'|' + text).hexdigest()[:32]}"


def _digest(value: Any) -> str:
    return hashlib.sha256(pickle.dumps(value)).hexdigest()


def _options(task: EnqueuedTask, options: dict[str, Any]) -> tuple[TaskOptions, dict[str, Any]]:
    """The task's options with those of the job in their place, and what concerns the job alone."""
    if not options:
        return task.options, {}
    if unknown := options.keys() - _TASK_OPTIONS - _JOB_OPTIONS - _CONNECTION_OPTIONS:
        known = ", ".join(sorted(_TASK_OPTIONS | _JOB_OPTIONS | _CONNECTION_OPTIONS))
        raise InvalidJob(f"{task.name}: unknown option {', '.join(sorted(unknown))}. Options are: {known}.")
    given = {key: value for key, value in options.items() if key not in _TASK_OPTIONS and value is not None}
    changed = {key: value for key, value in options.items() if key in _TASK_OPTIONS}
    if not changed:
        return task.options, given
    try:
        return replace(task.options, **changed), given
    except ValueError as error:
        raise InvalidJob(f"{task.name}: {error}") from None


def _fields(options: TaskOptions, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the task and of the job, by RQ's names."""
    return {key: value for key, value in given.items() if key not in _CONNECTION_OPTIONS} | options.job_fields()


def _queue(name: str, connection: Redis | None) -> Queue:
    from rqstack.enqueue import get_queue

    return get_queue(name, connection=connection)


def _check_call(task: EnqueuedTask, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if task.name.startswith("__main__."):
        raise InvalidJob(f"{task.name}: a worker cannot import __main__. Move the task to a module, such as tasks.py.")
    if not kwargs and len(args) in task.positional:
        return
    try:
        task.signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InvalidJob(f"{task.name}: {error}.") from None


def _as_call(task: EnqueuedTask, call: Call | tuple[Any, ...]) -> Call:
    if isinstance(call, tuple | list):
        call = Call(tuple(call))
    if not isinstance(call, Call):
        raise InvalidJob(f"{task.name}: enqueue_many() takes f.call(…) or tuples of arguments, not {call!r}.")
    _check_call(task, call.args, call.kwargs or {})
    return call


def _when(task: EnqueuedTask, at: datetime | None, in_: timedelta | float | None) -> datetime | None:
    if at is None and in_ is None:
        return None
    if at is not None and in_ is not None:
        raise InvalidJob(f"{task.name}: give either at= or in_=, not both.")
    if at is not None:
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise InvalidJob(f"{task.name}: at={at!r} should be a datetime with a time zone.")
        return at
    try:
        wait = in_ if isinstance(in_, timedelta) else timedelta(seconds=in_ or 0)
        if wait < timedelta(0):
            raise ValueError
        return datetime.now(UTC) + wait
    except (TypeError, ValueError, OverflowError):
        raise InvalidJob(f"{task.name}: in_={in_!r} should be seconds or a timedelta, 0 or more.") from None


def _enqueue_unique(
    queue: Queue,
    task: EnqueuedTask,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    fields: dict[str, Any],
    when: datetime | None,
) -> Job:
    """Enqueue under the id of the arguments; where such a job waits or runs, give that one."""
    from rq.exceptions import DuplicateJobError, NoSuchJobError
    from rq.job import JobStatus

    over = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)
    while True:
        try:
            if when is None:
                return queue.enqueue_call(task.name, args=args, kwargs=kwargs, unique=True, **fields)
            return queue.schedule_job(_later(queue, task, args, kwargs, fields), when, unique=True)
        except DuplicateJobError:
            pass
        try:
            job = queue.job_class.fetch(fields["job_id"], connection=queue.connection, serializer=queue.serializer)
        except NoSuchJobError:
            continue
        if job.get_status(refresh=False) not in over:
            return job
        _remove(queue, job, over)


def _later(
    queue: Queue, task: EnqueuedTask, args: tuple[Any, ...], kwargs: dict[str, Any], fields: dict[str, Any]
) -> Job:
    """A job to be scheduled, as RQ's Queue.enqueue_at makes it."""
    from rq.job import JobStatus

    made = {key: value for key, value in fields.items() if key != "at_front"}
    job = queue.create_job(task.name, args=args, kwargs=kwargs, status=JobStatus.SCHEDULED, **made)
    if fields["at_front"]:
        job.enqueue_at_front = True
    return job


def _remove(queue: Queue, job: Job, over: tuple[Any, ...]) -> None:
    """Delete a job that is over, unless another producer has just enqueued it again."""
    from redis.exceptions import WatchError

    pipeline: Any
    with queue.connection.pipeline() as pipeline:
        try:
            pipeline.watch(job.key)
            status = pipeline.hget(job.key, "status")
            if status is None or status.decode() not in over:
                return
            pipeline.multi()
            job.delete(pipeline=pipeline)
            pipeline.execute()
        except WatchError:
            return


def _reason(task: EnqueuedTask, error: Exception, queue: Queue, calls: Iterable[Call]) -> Exception:
    """An error of the queue, in a sentence for a person; others as they are."""
    from redis.exceptions import RedisError

    if isinstance(error, RedisError):
        return explain(error, get_settings().redis_url)
    for call in calls:
        try:
            queue.serializer.dumps((task.name, None, call.args, call.kwargs))
        except Exception as reason:
            return _unstorable(task, reason)
    return error


def _unstorable(task: EnqueuedTask, error: Exception) -> InvalidJob:
    return InvalidJob(f"{task.name}: the arguments cannot be stored: {type(error).__name__}: {error}.")
