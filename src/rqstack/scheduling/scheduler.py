"""`Scheduler`: queues, delayed jobs and the cron table in one object (seed 003)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from rqstack import bulk
from rqstack.bulk import State
from rqstack.scheduling.cron_declarations import declare, make_timetable
from rqstack.scheduling.delayed import DelayedJobs
from rqstack.scheduling.entries import RUN_TIME, Entry
from rqstack.scheduling.jobs import (
    Function,
    ScheduledCall,
    enqueue_options,
    make_call,
    make_entry,
    storing,
    task_options_of,
)
from rqstack.scheduling.table import CronTable, Status
from rqstack.settings import Settings, get_settings
from rqstack.transport.client import connect

if TYPE_CHECKING:
    from redis import Redis
    from rq import Queue
    from rq.job import Job

log = logging.getLogger("rqstack.scheduler")

Strategy = Literal["fork", "burst-no-fork"]


class Scheduler:
    """Enqueues, delays and repeats jobs, counts and clears them. A context manager that closes its connection.

    Args:
        strategy: How `work` runs jobs: "fork" until it is stopped, each job in a process of its own; "burst-no-fork" in
            this process until the queues are empty.
        is_async: False runs each enqueued job here and now, for tests; delayed jobs and cron lines are kept as ever.
        settings: Default: `get_settings()`.
        connection: Redis. Default: one of the settings, which this object closes.

    Raises:
        ValueError: There is no such strategy.
    """

    def __init__(
        self,
        strategy: Strategy = "fork",
        is_async: bool = True,
        *,
        settings: Settings | None = None,
        connection: Redis | None = None,
    ) -> None:
        if strategy not in ("fork", "burst-no-fork"):
            raise ValueError(f"strategy={strategy!r}: should be 'fork' or 'burst-no-fork'.")
        self.strategy = strategy
        self.is_async = is_async
        self.settings = settings or get_settings()
        self._owned = connection is None
        self.connection: Redis = connect(self.settings) if connection is None else connection
        self.table = CronTable(self.connection)
        self._queues: dict[str, Queue] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if it is this object's own."""
        if self._owned:
            self.connection.close()

    def get_queue(self, queue_name: str) -> Queue:
        """A queue by its name."""
        queue = self._queues.get(queue_name)
        if queue is None:
            from rqstack.enqueue import get_queue

            queue = get_queue(queue_name, connection=self.connection, settings=self.settings)
            queue._is_async = self.is_async
            self._queues[queue_name] = queue
        return queue

    def enqueue(
        self,
        queue_name: str,
        function: Function,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Job:
        """Put a job into a queue.

        Args:
            queue_name: The queue.
            function: A task, or its dotted path.
            args: Its positional arguments.
            kwargs: Its named arguments.
            options: RQ's: `retry`, `job_timeout`, `job_id`, `description`, `result_ttl` and the rest.

        Raises:
            InvalidJob: It is no task, or the arguments do not fit it or cannot be stored.
            BrokerUnavailable: Redis did not take it.
        """
        return self._enqueue(queue_name, None, make_call(function, args, kwargs, {}, self.settings), options)

    def enqueue_in(
        self,
        queue_name: str,
        time_delta: timedelta,
        function: Function,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Job:
        """Put a job into a queue later. Arguments as `enqueue`.

        Args:
            queue_name: The queue.
            time_delta: How much later.
            function: A task, or its dotted path.
            args: Its positional arguments.
            kwargs: Its named arguments.
            options: As `enqueue`.

        Raises:
            ValueError: time_delta is negative, or none.
            InvalidJob: as `enqueue`.
        """
        when = datetime.now(UTC) + check_delta(time_delta)
        return self._enqueue(queue_name, when, make_call(function, args, kwargs, {}, self.settings), options)

    def cron(
        self,
        queue_name: str,
        cron: str | None,
        function: Function,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        every: float | timedelta | None = None,
        name: str | None = None,
        timezone: str = "UTC",
        misfire_grace: float | None = None,
        **options: Any,
    ) -> Entry:
        """Add a line to the cron table, or replace the one with the same name (else: task, times and arguments).

        In a `cron.py`, while the scheduler reads it, the line is a declared one: it goes when the code goes. Made at
        run time, it stays until `cancel_cron_jobs`.

        Args:
            queue_name: The queue of its jobs.
            cron: A cron expression.
            function: A task, or its dotted path.
            args: Its positional arguments.
            kwargs: Its named arguments.
            every: Instead of `cron` (None): an interval in seconds or as a timedelta.
            name: What people see.
            timezone: The time zone of `cron`.
            misfire_grace: Seconds by which a missed firing may still run. Default: an hour.
            options: Those of `@task` for its jobs: `retries`, `backoff`, `timeout`, `description` and the rest.

        Returns:
            The line, with its id.

        Raises:
            ValueError: The times or an option are wrong; the message names them.
            InvalidJob: as `enqueue`.
        """
        timetable = make_timetable(cron, every, timezone)
        call = make_call(function, args, kwargs, {"queue": queue_name, **options}, self.settings)
        entry = make_entry(
            call,
            timetable,
            source=RUN_TIME,
            name=name,
            misfire_grace=misfire_grace,
            connection=self.connection,
            settings=self.settings,
        )
        if not declare(call, timetable, name, misfire_grace):
            self.table.put(entry)
        return entry

    def cron_jobs(self) -> list[tuple[Entry, Status]]:
        """The lines of the cron table and how each is doing, the next to fire first."""
        return self.table.entries()

    def scheduled_jobs(self, queue_name: str | None = None) -> list[Job]:
        """Delayed jobs and retries that wait for their time, of a queue or of all, the next first."""
        names = [queue_name] if queue_name else DelayedJobs(self.connection).queues()
        found: list[Job] = []
        for name in names:
            queue = self.get_queue(name)
            ids = queue.scheduled_job_registry.get_job_ids(cleanup=False)
            jobs = queue.job_class.fetch_many(ids, connection=self.connection, serializer=queue.serializer)
            found += [job for job in jobs if job is not None]
        return found

    def queued_count(self, queue_name: str) -> int:
        """Jobs that wait in a queue."""
        return len(self.get_queue(queue_name))

    def failed_count(self, queue_name: str) -> int:
        """Failed jobs of a queue that are kept."""
        return int(self.get_queue(queue_name).failed_job_registry.get_job_count(cleanup=False))

    def scheduled_count(self, queue_name: str) -> int:
        """Delayed jobs and retries of a queue."""
        return int(self.get_queue(queue_name).scheduled_job_registry.get_job_count(cleanup=False))

    def cron_job_count(self) -> int:
        """Lines of the cron table."""
        return len(self.table)

    def cancel_cron_jobs(self, *, declared: bool = False) -> int:
        """Remove the lines that were made at run time.

        Args:
            declared: Those of the task code too. They come back when the scheduler reads the code again.

        Returns:
            Lines that are left.
        """
        for entry_id in self.table.cancel_all(None if declared else RUN_TIME):
            log.info("cancelled the cron entry %s", entry_id)
        return len(self.table)

    def purge(self, queue_name: str, queue_state: State = "queued") -> int:
        """Delete the jobs of a queue that are in a state.

        Args:
            queue_name: The queue.
            queue_state: "queued", "failed" or "scheduled".

        Returns:
            Jobs that are left in that state.

        Raises:
            ValueError: There is no such state.
        """
        if queue_state not in get_args(State):
            raise ValueError(f"queue_state={queue_state!r}: should be 'queued', 'failed' or 'scheduled'.")
        bulk.purge(self.connection, queue_name, queue_state)
        return bulk.count(self.connection, queue_name, queue_state)

    def work(self, *queues: str, with_scheduler: bool = False) -> bool:
        """Run the jobs of queues with RQ's own worker, as `strategy` says; for tests and scripts.

        Args:
            queues: Queue names, in order of priority.
            with_scheduler: Move delayed jobs too: with "burst-no-fork" those that are due now.

        Returns:
            Whether it ran any job.

        Raises:
            ValueError: No queue is named.
        """
        from rq import SimpleWorker, Worker

        if not queues:
            raise ValueError("work() needs the name of a queue.")
        burst = self.strategy == "burst-no-fork"
        if with_scheduler and burst:
            DelayedJobs(self.connection, self.settings.job_timeout).move_due(self.table.now(), queues)
        kind = SimpleWorker if burst else Worker
        found = [self.get_queue(name) for name in queues]
        worker = kind(found, connection=self.connection, serializer=found[0].serializer)
        return worker.work(burst=burst, with_scheduler=with_scheduler and not burst)

    def job(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            rq.exceptions.NoSuchJobError: There is none.
        """
        from rq.job import Job

        from rqstack.security import get_serializer

        return Job.fetch(job_id, connection=self.connection, serializer=get_serializer(self.settings))

    def clear(self) -> None:
        """Delete the waiting jobs of all queues that this object has used."""
        for name in self._queues:
            bulk.empty(self.connection, name)

    def _enqueue(self, queue_name: str, when: datetime | None, call: ScheduledCall, options: dict[str, Any]) -> Job:
        """Through the task, where it is known: so it is unique, or saved first, as it says. Else as RQ would."""
        if call.task is not None and self.is_async and self.settings is get_settings():
            given = task_options_of(options)
            return call.task.enqueue(
                call.args, call.kwargs, queue=queue_name, at=when, connection=self.connection, **given
            )
        queue = self.get_queue(queue_name)
        given = enqueue_options(call) | options
        with storing(call):
            if when is not None:
                return queue.enqueue_at(  # type: ignore[no-any-return]
                    when, call.path, args=call.args, kwargs=call.kwargs, **given
                )
            return queue.enqueue(call.path, args=call.args, kwargs=call.kwargs, **given)


def check_delta(time_delta: object) -> timedelta:
    """A delay, checked.

    Raises:
        ValueError: It is negative, or no timedelta.
    """
    if not isinstance(time_delta, timedelta) or time_delta < timedelta(0):
        raise ValueError(f"time_delta={time_delta!r}: should be a timedelta, 0 or more.")
    return time_delta
