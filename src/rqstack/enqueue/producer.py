"""Enqueues the calls of a task: checks the call, merges the options, passes it to a queue."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rqstack.enqueue.publisher import get_publisher
from rqstack.errors import InvalidJob
from rqstack.registry.options import TaskOptions
from rqstack.security import for_purpose
from rqstack.settings import get_settings
from rqstack.transport.client import explain

if TYPE_CHECKING:
    from redis import Redis
    from rq import RateLimit
    from rq.job import Job

    from rqstack.enqueue.queue import Queue
    from rqstack.enqueue.task_protocol import EnqueuedTask

_TASK_OPTIONS = frozenset(
    (
        *("retries", "backoff", "timeout", "result_ttl", "failure_ttl", "ttl", "unique", "at_front", "description"),
        *("meta", "concurrency", "concurrency_key"),
    )
)
_JOB_OPTIONS = frozenset(
    ("queue", "at", "in_", "job_id", "depends_on", "on_success", "on_failure", "on_stopped", "repeat", "webhooks")
)
_CONNECTION_OPTIONS = frozenset(("connection", "pipeline"))


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one job. They may be secret, so its text does not show them."""

    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: dict[str, Any] | None = field(default=None, repr=False)


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
    if merged.concurrency is not None:
        fields["rate_limit"] = _limit(task, merged, args, kwargs)
        if pipeline is not None:
            raise InvalidJob(f"{task.name}: concurrency= and pipeline= cannot both be given.")
    if merged.unique and "job_id" not in fields:
        fields["job_id"] = unique_id(task, args, kwargs, merged)
    try:
        if pipeline is not None and not merged.unique:
            if when is not None:
                return queue.schedule_job(_new_job(queue, task, args, kwargs, fields, when), when, pipeline=pipeline)
            return queue.enqueue_call(task.name, args=args, kwargs=kwargs, pipeline=pipeline, **fields)
        if merged.unique or when is not None:
            return queue.enqueue_new(
                _new_job(queue, task, args, kwargs, fields, when),
                at_front=fields["at_front"] and when is None,
                if_exists="replace" if merged.unique else "overwrite",
                when=when,
            )
        return queue.enqueue_call(task.name, args=args, kwargs=kwargs, **fields)
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
    if merged.concurrency is not None and pipeline is not None:
        raise InvalidJob(f"{task.name}: concurrency= and pipeline= cannot both be given.")
    try:
        # Fields are made for each job: the random part of a backoff differs.
        if merged.concurrency is not None:
            jobs = []
            for call in checked:
                fields = _fields(merged, given)
                fields["rate_limit"] = _limit(task, merged, call.args, call.kwargs or {})
                jobs.append(_new_job(queue, task, call.args, call.kwargs or {}, fields, None))
            return queue.enqueue_new_many(jobs, at_front=merged.at_front)
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
    if changed.get("concurrency", 1) is None:
        changed.setdefault("concurrency_key", None)
    try:
        return replace(task.options, **changed), given
    except ValueError as error:
        raise InvalidJob(f"{task.name}: {error}") from None


def _fields(options: TaskOptions, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the task and of the job, by RQ's names."""
    return {key: value for key, value in given.items() if key not in _CONNECTION_OPTIONS} | options.job_fields()


def _limit(task: EnqueuedTask, options: TaskOptions, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RateLimit | None:
    try:
        return options.concurrency_limit(task.name, args, kwargs)
    except ValueError as error:
        raise InvalidJob(f"{task.name}: {error}") from None


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
        kind = type(call).__name__
        raise InvalidJob(f"{task.name}: enqueue_many() takes f.call(…) or tuples of arguments, not {kind}.")
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


def _new_job(
    queue: Queue,
    task: EnqueuedTask,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    fields: dict[str, Any],
    when: datetime | None,
) -> Job:
    """A job, as RQ's `Queue.enqueue_call` or, with a time, `Queue.enqueue_at` makes it."""
    from rq.job import JobStatus

    made = {key: value for key, value in fields.items() if key != "at_front"}
    status = JobStatus.QUEUED if when is None else JobStatus.SCHEDULED
    job = queue.create_job(task.name, args=args, kwargs=kwargs, status=status, **made)
    if when is not None and fields["at_front"]:
        job.enqueue_at_front = True
    return job


def _reason(task: EnqueuedTask, error: Exception, queue: Queue, calls: Iterable[Call]) -> Exception:
    """An error of the queue, in a sentence for a person; others as they are."""
    from redis.exceptions import RedisError

    from rqstack.enqueue.dependencies import DependencyCycle

    if isinstance(error, RedisError):
        return explain(error, get_settings().redis_url)
    if isinstance(error, DependencyCycle):
        return InvalidJob(f"{task.name}: {error}")
    for call in calls:
        try:
            for_purpose(queue.serializer, "arguments").dumps((task.name, None, call.args, call.kwargs))
        except Exception as reason:
            return _unstorable(task, reason)
    return error


def _unstorable(task: EnqueuedTask, error: Exception) -> InvalidJob:
    if task.options.secret:  # the text may show a value
        return InvalidJob(f"{task.name}: the arguments cannot be stored: {type(error).__name__}.")
    return InvalidJob(f"{task.name}: the arguments cannot be stored: {type(error).__name__}: {error}.")
