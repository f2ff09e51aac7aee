"""Checks scheduled calls and builds the job template that each firing of a cron entry copies."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rqstack.errors import InvalidJob
from rqstack.registry.options import TaskOptions
from rqstack.registry.registry import registry
from rqstack.scheduling.entries import RUN_TIME, Entry, arguments_text, check_misfire_grace, entry_id
from rqstack.settings import Settings, get_settings
from rqstack.tasks import BoundTask, Task

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue

    from rqstack.registry.timetable import Timetable

_PICKLE = 5
"""The version of pickle that makes ids; the same for every Python, so that an entry keeps its id."""

Function = Callable[..., Any] | Task[..., Any] | str
"""A task, its plain function, or its dotted path."""


@dataclass(frozen=True)
class ScheduledCall:
    """A validated call to run later.

    Args:
        path: The dotted path of the function.
        options: Options of its jobs.
        task: None if this process does not know the task.
    """

    path: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: TaskOptions
    task: Task[..., Any] | None = None


def make_call(
    function: Function,
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    settings: Settings | None = None,
) -> ScheduledCall:
    """Validate a call.

    Args:
        options: Fields of `TaskOptions` that override those of the task.
        settings: Default: `get_settings()`.

    Raises:
        InvalidJob: The function is not a registered task, or the arguments do not match its signature.
        ValueError: An option is out of range.
    """
    if isinstance(args, str | bytes):
        raise ValueError(f"args={args!r}: should be a list or a tuple of arguments.")
    positional, named = tuple(args or ()), dict(kwargs or {})
    if isinstance(function, BoundTask):
        positional = (function.instance, *positional)
        function = function.task
    path = function if isinstance(function, str) else _dotted_path(function)
    task = function if isinstance(function, Task) else _find_task(path)
    if isinstance(task, Task):
        try:
            task.signature.bind(*positional, **named)
        except TypeError as error:
            raise InvalidJob(f"{path}: {error}.") from None
        return ScheduledCall(task.name, positional, named, replace(task.options, **options), task)
    if not isinstance(function, str) and not (settings or get_settings()).allow_unregistered:
        raise InvalidJob(f"{path} is not a task, so no worker would run it. Decorate it with @task.")
    return ScheduledCall(path, positional, named, TaskOptions(**options))


def make_entry(
    call: ScheduledCall,
    timetable: Timetable,
    *,
    source: str,
    name: str | None = None,
    misfire_grace: float | None = None,
    connection: Redis,
    settings: Settings | None = None,
) -> Entry:
    """Make an entry of the cron table.

    Args:
        source: See `Entry.source`.
        name: Default: the path of the function.
        misfire_grace: Seconds. Default: `MISFIRE_GRACE`.
        settings: Default: `get_settings()`.

    Raises:
        ValueError: A declared entry has no name, and arguments that are not the same text in every process.
        InvalidJob: The arguments cannot be stored.
    """
    queue = _get_queue(call.options.queue, connection, settings)
    template = _job_template(call, queue)
    arguments = arguments_text(call.args, call.kwargs)
    if arguments is None:
        if source != RUN_TIME and name is None:
            raise ValueError(f"{call.path}: JSON cannot represent its arguments, so the entry needs a name=…")
        # Not the template's data: their signature changes with the key, and the entry would be a new one.
        arguments = pickle.dumps((call.args, call.kwargs), _PICKLE).hex()
    return Entry(
        id=entry_id(name, call.path, timetable, arguments),
        name=name or call.path,
        task=call.path,
        timetable=timetable,
        queue=call.options.queue,
        misfire_grace=check_misfire_grace(misfire_grace),
        source=source,
        description=template["description"].decode(),
        template=template,
    )


def task_options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate RQ's options of `Queue.enqueue` to task options."""
    translated = dict(options)
    if "job_timeout" in translated:
        translated["timeout"] = translated.pop("job_timeout")
    if "retry" in translated:
        retry = translated.pop("retry")
        translated["retries"], translated["backoff"] = (retry.max, list(retry.intervals)) if retry else (0, None)
    return translated


def enqueue_options(call: ScheduledCall) -> dict[str, Any]:
    """Translate the options of a call to those of `rq.Queue.enqueue`."""
    fields = call.options.job_fields()
    fields["job_timeout"] = fields.pop("timeout")
    fields["rate_limit"] = call.options.concurrency_limit(call.path, call.args, call.kwargs)
    return fields


@contextlib.contextmanager
def translate_storage_errors(call: ScheduledCall) -> Iterator[None]:
    """Turn errors from serializing and storing the job of a call into `InvalidJob`.

    Raises:
        InvalidJob: The arguments cannot be pickled, or an option is out of range.
    """
    try:
        yield
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InvalidJob(f"{call.path}: the job cannot be stored: {error}.") from error


def _job_template(call: ScheduledCall, queue: Queue) -> dict[str, bytes]:
    """The fields of the job hash as RQ stores them, without those that fire.lua sets per firing."""
    options = call.options
    with translate_storage_errors(call):
        fields = options.job_fields()
        at_front = fields.pop("at_front")
        fields["rate_limit"] = options.concurrency_limit(call.path, call.args, call.kwargs)
        job = queue.create_job(call.path, args=call.args, kwargs=call.kwargs, **fields)
        job.origin = queue.name
        job.timeout = job.timeout or queue._default_timeout
        if at_front:
            job.enqueue_at_front = True
        stored = job.to_dict()
    per_firing = ("created_at", "enqueued_at", "status")
    return {
        key: value if isinstance(value, bytes) else str(value).encode()
        for key, value in stored.items()
        if value is not None and key not in per_firing
    }


def _get_queue(name: str, connection: Redis, settings: Settings | None) -> Queue:
    from rqstack.enqueue import get_queue

    return get_queue(name, connection=connection, settings=settings)


def _dotted_path(function: Any) -> str:
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if isinstance(function, Task):
        return function.name
    if not callable(function) or not module or not qualname or "<" in qualname:
        raise InvalidJob(f"A worker cannot import {function!r}. Schedule a task that is defined at module level.")
    if module == "__main__":
        raise InvalidJob(f"{qualname}: a worker cannot import __main__. Move the task to a module, such as tasks.py.")
    return f"{module}.{qualname}"


def _find_task(path: str) -> Task[..., Any] | None:
    return registry.get(path) if path in registry else None
