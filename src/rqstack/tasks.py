"""`@task` and `@queue_command`: functions that can be called here, and enqueued to run in a worker."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from rqstack import limiting
from rqstack.enqueue import producer
from rqstack.errors import InvalidJob, did_you_mean
from rqstack.registry import retries
from rqstack.registry.options import OPTION_NAMES, ConcurrencyKey, RateRule, TaskOptions, Unique, make_options
from rqstack.registry.registry import registry
from rqstack.registry.retries import Backoff

if TYPE_CHECKING:
    from rq.job import Job

P = ParamSpec("P")
R = TypeVar("R")
Exceptions = Iterable[type[BaseException]] | type[BaseException]

_running: ContextVar[str | None] = ContextVar("rqstack_running", default=None)
"""The task whose body runs here, so that a command that calls itself enqueues."""


class Task(Generic[P, R]):
    """A function that is registered as a task. Calling it runs it here and now; `delay` and the rest enqueue a job.

    Args:
        func: The function; coroutine functions too.
        options: Its options.

    Attributes:
        name: RQ's dotted path of the function, and the job's function name.
        body: What a worker calls.
    """

    _always_marked = False

    def __init__(self, func: Callable[P, R], options: TaskOptions) -> None:
        self.func = func
        self.options = options
        self.name = _name(func)
        self._signature: inspect.Signature | None = None
        if options.secret and (unknown := set(options.secret) - set(self.signature.parameters)):
            raise ValueError(f"secret={options.secret!r}: {', '.join(sorted(unknown))} is no argument of the function.")
        self.body: Callable[P, R] = self._make_body()
        self.__name__ = func.__name__
        self.__qualname__ = func.__qualname__
        self.__module__ = func.__module__
        self.__doc__ = func.__doc__
        self.__wrapped__ = func
        registry.register(self)

    @functools.cached_property
    def is_plain(self) -> bool:
        """Whether no option changes how a job of it is enqueued, apart from the queue."""
        given = self.options
        ttls = (given.timeout, given.result_ttl, given.failure_ttl, given.ttl)
        other = given.retries or given.unique or given.concurrency or given.at_front or given.description or given.meta
        return not other and all(seconds is None for seconds in ttls)

    @functools.cached_property
    def positional(self) -> range:
        """The numbers of positional arguments that alone are a complete call."""
        kinds = [(parameter.kind, parameter.default) for parameter in self.signature.parameters.values()]
        by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        places = [default for kind, default in kinds if kind in by_place]
        if any(
            kind == inspect.Parameter.KEYWORD_ONLY and default is inspect.Parameter.empty for kind, default in kinds
        ):
            return range(0)
        least = sum(default is inspect.Parameter.empty for default in places)
        unbounded = any(kind == inspect.Parameter.VAR_POSITIONAL for kind, _ in kinds)
        return range(least, sys.maxsize if unbounded else len(places) + 1)

    @property
    def signature(self) -> inspect.Signature:
        """The parameters of the function."""
        if self._signature is None:
            self._signature = inspect.signature(self.func)
        return self._signature

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now."""
        if self.body is not self.func and self._is_this_job():
            return self.body(*args, **kwargs)
        return self.func(*args, **kwargs)

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a job with these arguments.

        Returns:
            The job. Its `id` is how to find it again.

        Raises:
            InvalidJob: The arguments do not fit the function, or cannot be stored.
            BrokerUnavailable: Redis did not take it.
        """
        return producer.enqueue(self, args, kwargs, {})

    def enqueue(self, args: Iterable[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any) -> Job:
        """Enqueue a job with options of its own, which win over those of the task.

        Args:
            args: Positional arguments of the function.
            kwargs: Keyword arguments of the function.
            options: `queue`, `at` (a datetime with a time zone), `in_` (seconds or timedelta), `job_id`, `depends_on`,
                `on_success`, `on_failure`, `on_stopped`, `repeat`, `webhooks`, `connection`, `pipeline`, and those of
                `@task` that concern one job: `retries`, `backoff`, `timeout`, `result_ttl`, `failure_ttl`, `ttl`,
                `unique`, `concurrency`, `concurrency_key`, `at_front`, `description`, `meta`.

        Raises:
            InvalidJob: as `delay`; or an option is unknown or out of its range.
            BrokerUnavailable: Redis did not take it.
        """
        return producer.enqueue(self, tuple(args), dict(kwargs or {}), options)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> producer.Call:
        """The arguments of one job, for `enqueue_many`."""
        return producer.Call(args, kwargs)

    def enqueue_many(self, calls: Iterable[producer.Call | tuple[Any, ...]], **options: Any) -> list[Job]:
        """Enqueue many jobs in one round trip.

        Args:
            calls: For each job `f.call(…)`, or a tuple of positional arguments.
            options: As `enqueue`, for all of them; not `job_id`.

        Returns:
            The jobs, in the order given.

        Raises:
            InvalidJob: as `enqueue`; then none is enqueued.
            BrokerUnavailable: Redis did not take them.
        """
        return producer.enqueue_many(self, calls, options)

    def schedule(
        self, *args: Any, at: datetime | None = None, in_: timedelta | float | None = None, **kwargs: Any
    ) -> Job:
        """Enqueue a job later. (A function with a parameter `at` or `in_`: `enqueue(args, kwargs, at=…)`.)

        Args:
            args: Positional arguments of the function.
            at: When, with a time zone.
            in_: How much later, in seconds or as a timedelta.
            kwargs: Keyword arguments of the function.

        Raises:
            InvalidJob: as `enqueue`; or neither or both of `at` and `in_` are given.
        """
        if (at is None) == (in_ is None):
            raise InvalidJob(f"{self.name}: schedule() needs either at= or in_=.")
        return producer.enqueue(self, args, kwargs, {"at": at, "in_": in_})

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Task[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> BoundTask[..., R]: ...
    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else BoundTask(self, instance)

    def __reduce__(self) -> str:
        # By reference, as a function pickles.
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def _is_this_job(self) -> bool:
        """Whether RQ's own path calls this object now, to run the job that it was enqueued as."""
        if _running.get() == self.name:
            return False
        from rq import get_current_job

        job = get_current_job()
        return job is not None and (job.func_name == self.name or job.instance is self)

    def _make_body(self) -> Callable[P, R]:
        """The function itself where no option needs more, so that a worker's call costs nothing."""
        body: Callable[..., Any] = self.func
        if self.options.retry_on:
            body = retries.retrying_only(body, self.options.retry_on)
        if self.options.rate_limit is not None:
            body = limiting.limited(body, self.name, self.options.rate_limit)
        if body is not self.func or self._always_marked:
            body = _marked(body, self.name)
        return cast(Callable[P, R], body)


class QueueCommand(Task[P, R]):
    """A task whose call enqueues it; `call_now` runs it here and now. In a worker the job's own call runs it."""

    _always_marked = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Enqueue a job with these arguments, and return it at once.

        Raises:
            InvalidJob: as `delay`.
        """
        if self._is_this_job():
            return self.body(*args, **kwargs)
        return producer.enqueue(self, args, kwargs, {})

    def call_now(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now."""
        return self.func(*args, **kwargs)


class BoundTask(Generic[P, R]):
    """A task taken from an object, as a bound method is: the object is its first argument, and is pickled with it."""

    def __init__(self, task: Task[..., R], instance: object) -> None:
        self.task = task
        self.instance = instance

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        return self.task(self.instance, *args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> Job:
        """As `Task.delay`."""
        return self.task.delay(self.instance, *args, **kwargs)

    def enqueue(self, args: Iterable[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any) -> Job:
        """As `Task.enqueue`."""
        return self.task.enqueue((self.instance, *args), kwargs, **options)

    def schedule(
        self, *args: Any, at: datetime | None = None, in_: timedelta | float | None = None, **kwargs: Any
    ) -> Job:
        """As `Task.schedule`."""
        return self.task.schedule(self.instance, *args, at=at, in_=in_, **kwargs)


class _Decorator(Protocol):
    """The decorator that `task(...)` returns."""

    def __call__(self, func: Callable[P, R], /) -> Task[P, R]: ...


class _CommandDecorator(Protocol):
    """The decorator that `queue_command(...)` returns."""

    def __call__(self, func: Callable[P, R], /) -> QueueCommand[P, R]: ...


@overload
def task(func: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    queue: str = ...,
    retries: int = ...,
    backoff: Backoff = ...,
    retry_on: Exceptions | None = ...,
    timeout: int | None = ...,
    result_ttl: int | None = ...,
    failure_ttl: int | None = ...,
    ttl: int | None = ...,
    unique: Unique = ...,
    rate_limit: str | RateRule | None = ...,
    concurrency: int | None = ...,
    concurrency_key: ConcurrencyKey | None = ...,
    cron: str | None = ...,
    timezone: str = ...,
    misfire_grace: int | None = ...,
    at_front: bool = ...,
    description: str | None = ...,
    meta: dict[str, Any] | None = ...,
    secret: Iterable[str] = ...,
) -> _Decorator: ...
def task(func: Any = None, /, **options: Any) -> Any:
    """Declare a task, bare or with options.

    Args:
        func: The function. A static method too, above or below `@staticmethod`.
        options: See `TaskOptions`.

    Raises:
        ValueError: An option is wrong, the function cannot be found again by its name, or two tasks have one name.
    """
    return _declare(Task, func, options)


@overload
def queue_command(func: Callable[P, R], /) -> QueueCommand[P, R]: ...
@overload
def queue_command(
    *,
    queue: str = ...,
    retries: int = ...,
    backoff: Backoff = ...,
    retry_on: Exceptions | None = ...,
    timeout: int | None = ...,
    result_ttl: int | None = ...,
    failure_ttl: int | None = ...,
    ttl: int | None = ...,
    unique: Unique = ...,
    rate_limit: str | RateRule | None = ...,
    concurrency: int | None = ...,
    concurrency_key: ConcurrencyKey | None = ...,
    at_front: bool = ...,
    description: str | None = ...,
    meta: dict[str, Any] | None = ...,
    secret: Iterable[str] = ...,
) -> _CommandDecorator: ...
def queue_command(func: Any = None, /, **options: Any) -> Any:
    """Declare a command: a task whose call enqueues it.

    Args:
        func: The function.
        options: See `TaskOptions`.

    Raises:
        ValueError: as `task`.
    """
    return _declare(QueueCommand, func, options)


def _declare(kind: type[Task[..., Any]], func: Any, given: dict[str, Any]) -> Any:
    if func is None:
        return lambda function: _declare_one(kind, function, given)
    if given:
        raise TypeError(f"@{kind.__name__}: write the options alone: @task(...) above the function.")
    return _declare_one(kind, func, {})


def _declare_one(kind: type[Task[..., Any]], func: Any, given: dict[str, Any]) -> Any:
    static = isinstance(func, staticmethod)
    if static:
        func = func.__func__
    named = f"{getattr(func, '__module__', '?')}.{getattr(func, '__qualname__', func)}"
    if not (inspect.isfunction(func) or inspect.isbuiltin(func)):
        raise ValueError(
            f"{named}: a task is a function, a static method or a method; this is a {type(func).__name__}."
        )
    for name in given.keys() - OPTION_NAMES:
        code = getattr(func, "__code__", None)
        place = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
        raise TypeError(f"{named}{place}: there is no option {name!r}.{did_you_mean(name, OPTION_NAMES)}")
    try:
        made = kind(func, make_options(**given))
    except ValueError as error:
        raise ValueError(f"{named}: {error}") from None
    return staticmethod(made) if static else made


def _marked(inner: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The body, marked while it runs with the task's name: RQ calls the task's object, and so may the body itself."""
    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def body(*args: Any, **kwargs: Any) -> Any:
            token = _running.set(name)
            try:
                return await inner(*args, **kwargs)
            finally:
                _running.reset(token)
    else:

        @functools.wraps(inner)
        def body(*args: Any, **kwargs: Any) -> Any:
            token = _running.set(name)
            try:
                return inner(*args, **kwargs)
            finally:
                _running.reset(token)

    return body


def _name(func: Callable[..., Any]) -> str:
    module, qualname = func.__module__, func.__qualname__
    if "<" in qualname:
        raise ValueError("a worker cannot import it: declare the task at the top of a module or in a class.")
    if module == "__main__":
        # `python -m package.module` runs under another name than the one workers import it by.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name.removesuffix(".__main__") if spec is not None else module
    return f"{module}.{qualname}"
