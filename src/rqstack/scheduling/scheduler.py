"""`Scheduler`: queues, delayed jobs and the cron table in one object."""

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
    task_options_of,
    translate_storage_errors,
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
    """Enqueues, delays, repeats, counts and clears jobs. A context manager that closes its connection.

    Args:
        strategy: How `work` runs jobs: "fork" runs each job in a child process, until it is stopped; "burst-no-fork"
            runs them in this process until the queues are empty.
        is_async: False runs each enqueued job at once in this process, for tests. Delayed jobs and cron entries are
            stored as usual.
        settings: Default: `get_settings()`.
        connection: Stays open. Default: a new connection, which this object closes.

    Raises:
        ValueError: The strategy is unknown.
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
        self._owns_connection = connection is None
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
        """Close the connection if this object opened it."""
        if self._owns_connection:
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
        """Enqueue a job.

        Args:
            function: A task, or its dotted path.
            options: Those of `rq.Queue.enqueue`: `retry`, `job_timeout`, `job_id`, `description`, `result_ttl`, ….

        Raises:
            InvalidJob: The function is not a task, or its arguments do not match its signature or cannot be stored.
            BrokerUnavailable: Redis cannot be reached or refused the job.
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
        """Enqueue a job after a delay. The other arguments are those of `enqueue`.

        Raises:
            ValueError: time_delta is negative or not a timedelta.
            InvalidJob: As `enqueue`.
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
        """Add an entry to the cron table, or replace the one with the same name (without a name: the same task, times
        and arguments).

        An entry added while the scheduler reads a `cron.py` is a declared one: it is removed with the code. One added
        at run time stays until `cancel_cron_jobs`.

        Args:
            function: A task, or its dotted path.
            every: Instead of `cron` (None): an interval in seconds or as a timedelta.
            name: Default: the task's.
            timezone: The time zone of `cron`.
            misfire_grace: Seconds by which a missed firing may still run. Default: an hour.
            options: Options of `@task` for its jobs: `retries`, `backoff`, `timeout`, `description`, ….

        Raises:
            ValueError: The times or an option are invalid; the message names them.
            InvalidJob: As `enqueue`.
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
        """The cron entries with their status, the next to fire first."""
        return self.table.entries()

    def scheduled_jobs(self, queue_name: str | None = None) -> list[Job]:
        """Delayed jobs and retries that are not due yet, the next first.

        Args:
            queue_name: Default: all queues.
        """
        names = [queue_name] if queue_name else DelayedJobs(self.connection).queues()
        jobs: list[Job] = []
        for name in names:
            queue = self.get_queue(name)
            ids = queue.scheduled_job_registry.get_job_ids(cleanup=False)
            fetched = queue.job_class.fetch_many(ids, connection=self.connection, serializer=queue.serializer)
            jobs += [job for job in fetched if job is not None]
        return jobs

    def queued_count(self, queue_name: str) -> int:
        """The number of queued jobs."""
        return len(self.get_queue(queue_name))

    def failed_count(self, queue_name: str) -> int:
        """The number of failed jobs in RQ's registry."""
        return int(self.get_queue(queue_name).failed_job_registry.get_job_count(cleanup=False))

    def scheduled_count(self, queue_name: str) -> int:
        """The number of delayed jobs and retries."""
        return int(self.get_queue(queue_name).scheduled_job_registry.get_job_count(cleanup=False))

    def cron_job_count(self) -> int:
        """The number of cron entries."""
        return len(self.table)

    def cancel_cron_jobs(self, *, declared: bool = False) -> int:
        """Remove the cron entries that were added at run time.

        Args:
            declared: Also remove declared entries. They come back when the scheduler reads the code again.

        Returns:
            The number of entries left.
        """
        for entry_id in self.table.cancel_all(None if declared else RUN_TIME):
            log.info("cancelled the cron entry %s", entry_id)
        return len(self.table)

    def purge(self, queue_name: str, queue_state: State = "queued") -> int:
        """Delete the jobs of a queue that are in a state.

        Returns:
            The number of jobs left in that state.

        Raises:
            ValueError: The state is none of "queued", "failed" and "scheduled".
        """
        if queue_state not in get_args(State):
            raise ValueError(f"queue_state={queue_state!r}: should be 'queued', 'failed' or 'scheduled'.")
        bulk.purge(self.connection, queue_name, queue_state)
        return bulk.count(self.connection, queue_name, queue_state)

    def work(self, *queues: str, with_scheduler: bool = False) -> bool:
        """Run the jobs of queues with RQ's own worker, according to `strategy`. For tests and scripts.

        Args:
            queues: Queue names in order of priority.
            with_scheduler: Also move delayed jobs; with "burst-no-fork", those that are due now.

        Returns:
            Whether any job ran.

        Raises:
            ValueError: No queue is given.
        """
        from rq import SimpleWorker, Worker

        from rqstack.registry.checked_job import checked

        if not queues:
            raise ValueError("work() needs the name of a queue.")
        burst = self.strategy == "burst-no-fork"
        if with_scheduler and burst:
            DelayedJobs(self.connection, self.settings.job_timeout).move_due(self.table.now(), queues)
        worker_class = SimpleWorker if burst else Worker
        rq_queues = [self.get_queue(name) for name in queues]
        # RQ's workers would call whatever a record names.
        job_class = checked(rq_queues[0].job_class)
        worker = worker_class(
            rq_queues, connection=self.connection, serializer=rq_queues[0].serializer, job_class=job_class
        )
        return worker.work(burst=burst, with_scheduler=with_scheduler and not burst)

    def job(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            rq.exceptions.NoSuchJobError: It does not exist.
        """
        from rq.job import Job

        from rqstack.security import get_job_serializer

        return Job.fetch(job_id, connection=self.connection, serializer=get_job_serializer(self.settings))

    def clear(self) -> None:
        """Delete the queued jobs of all queues that this object has used."""
        for name in self._queues:
            bulk.empty(self.connection, name)

    def _enqueue(self, queue_name: str, when: datetime | None, call: ScheduledCall, options: dict[str, Any]) -> Job:
        """Enqueue through the task if this process knows it, so that `unique` and the like apply; else through RQ."""
        if call.task is not None and self.is_async and self.settings is get_settings():
            task_options = task_options_of(options)
            return call.task.enqueue(
                call.args, call.kwargs, queue=queue_name, at=when, connection=self.connection, **task_options
            )
        queue = self.get_queue(queue_name)
        rq_options = enqueue_options(call) | options
        with translate_storage_errors(call):
            if when is not None:
                return queue.enqueue_at(  # type: ignore[no-any-return]
                    when, call.path, args=call.args, kwargs=call.kwargs, **rq_options
                )
            return queue.enqueue(call.path, args=call.args, kwargs=call.kwargs, **rq_options)


def check_delta(time_delta: object) -> timedelta:
    """Validate a delay.

    Raises:
        ValueError: It is negative or not a timedelta.
    """
    if not isinstance(time_delta, timedelta) or time_delta < timedelta(0):
        raise ValueError(f"time_delta={time_delta!r}: should be a timedelta, 0 or more.")
    return time_delta
