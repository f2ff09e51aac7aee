"""What a scheduled call becomes: checks the function and its options, and makes the job that each firing copies."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rqstack.errors import InvalidJob
from rqstack.registry.options import TaskOptions
from rqstack.registry.registry import registry
from rqstack.scheduling.entries import RUN_TIME, Entry, arguments_text, check_grace, entry_id
from rqstack.settings import Settings, get_settings
from rqstack.tasks import BoundTask, Task

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue

    from rqstack.registry.timetable import Timetable

Function = Callable[..., Any] | Task[..., Any] | str
"""A task, the function of one, or its dotted path."""


@dataclass(frozen=True)
class ScheduledCall:
    """A call to be made later, checked.

    Args:
        path: The dotted path of the function.
        args: Positional arguments.
        kwargs: Named arguments.
        options: The options of its jobs.
        task: The task, where this process knows it.
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
    """Check a call.

    Args:
        function: What to call.
        args: Positional arguments.
        kwargs: Named arguments.
        options: Options of `TaskOptions`, which win over those of the task.
        settings: Default: `get_settings()`.

    Raises:
        InvalidJob: It is no registered task, or the arguments do not fit it.
        ValueError: An option is out of its range.
    """
    if isinstance(args, str | bytes):
        raise ValueError(f"args={args!r}: should be a list or a tuple of arguments.")
    given, named = tuple(args or ()), dict(kwargs or {})
    if isinstance(function, BoundTask):
        given = (function.instance, *given)
        function = function.task
    path = function if isinstance(function, str) else _path(function)
    task = function if isinstance(function, Task) else _registered(path)
    if isinstance(task, Task):
        try:
            task.signature.bind(*given, **named)
        except TypeError as error:
            raise InvalidJob(f"{path}: {error}.") from None
        return ScheduledCall(task.name, given, named, replace(task.options, **options), task)
    if not isinstance(function, str) and not (settings or get_settings()).allow_unregistered:
        raise InvalidJob(f"{path} is no task, so no worker would run it. Put @task above it.")
    return ScheduledCall(path, given, named, TaskOptions(**options))


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
    """A line of the cron table.

    Args:
        call: What its firings call.
        timetable: When.
        source: As `Entry.source`.
        name: Default: the path of the function.
        misfire_grace: Seconds; see `Entry`.
        connection: Redis.
        settings: Default: `get_settings()`.

    Raises:
        ValueError: A declared entry needs a name, as its arguments are not the same text in every process.
        InvalidJob: The arguments cannot be stored.
    """
    queue = _queue(call.options.queue, connection, settings)
    template = _template(call, queue)
    arguments = arguments_text(call.args, call.kwargs)
    if arguments is None:
        if source != RUN_TIME and name is None:
            raise ValueError(f"{call.path}: its arguments are more than JSON can say, so the entry needs a name=…")
        arguments = template["data"].hex()
    return Entry(
        id=entry_id(name, call.path, timetable, arguments),
        name=name or call.path,
        task=call.path,
        timetable=timetable,
        queue=call.options.queue,
        misfire_grace=check_grace(misfire_grace),
        source=source,
        description=template["description"].decode(),
        template=template,
    )


def task_options_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """RQ's options of one job as those of a task."""
    given = dict(options)
    if "job_timeout" in given:
        given["timeout"] = given.pop("job_timeout")
    if "retry" in given:
        retry = given.pop("retry")
        given["retries"], given["backoff"] = (retry.max, list(retry.intervals)) if retry else (0, None)
    return given


def enqueue_options(call: ScheduledCall) -> dict[str, Any]:
    """The options of a call, as `rq.Queue.enqueue` takes them."""
    fields = call.options.job_fields()
    fields["job_timeout"] = fields.pop("timeout")
    return fields


@contextlib.contextmanager
def storing(call: ScheduledCall) -> Iterator[None]:
    """Around what makes a job of a call: says what cannot be stored.

    Raises:
        InvalidJob: The arguments do not pickle, or an option is out of its range.
    """
    try:
        yield
    except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InvalidJob(f"{call.path}: the job cannot be stored: {error}.") from error


def _template(call: ScheduledCall, queue: Queue) -> dict[str, bytes]:
    """The fields of a job as RQ stores them; what differs from firing to firing is set when it fires."""
    options = call.options
    with storing(call):
        fields = options.job_fields()
        at_front = fields.pop("at_front")
        job = queue.create_job(call.path, args=call.args, kwargs=call.kwargs, **fields)
        job.origin = queue.name
        job.timeout = job.timeout or queue._default_timeout
        if at_front:
            job.enqueue_at_front = True
        stored = job.to_dict()
    differing = ("created_at", "enqueued_at", "status")
    return {
        key: value if isinstance(value, bytes) else str(value).encode()
        for key, value in stored.items()
        if value is not None and key not in differing
    }


def _queue(name: str, connection: Redis, settings: Settings | None) -> Queue:
    from rqstack.enqueue import get_queue

    return get_queue(name, connection=connection, settings=settings)


def _path(function: Any) -> str:
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if isinstance(function, Task):
        return function.name
    if not callable(function) or not module or not qualname or "<" in qualname:
        raise InvalidJob(f"{function!r} cannot be found by a worker: schedule a task at the top of a module.")
    if module == "__main__":
        raise InvalidJob(f"{qualname}: a worker cannot import __main__. Move the task to a module, such as tasks.py.")
    return f"{module}.{qualname}"


def _registered(path: str) -> Task[..., Any] | None:
    return registry.get(path) if path in registry else None
