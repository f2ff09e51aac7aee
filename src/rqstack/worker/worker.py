"""The worker as RQ knows it: `rq worker -w rqstack.worker.Worker`, or one of those that a supervisor has."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from rq import Worker as RqWorker
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.worker.base import DequeueStrategy

from rqstack.limiting.putback import PutBack, put_back
from rqstack.worker.commands import Commands
from rqstack.worker.limits import Limits
from rqstack.worker.supervisor import Supervisor

if TYPE_CHECKING:
    from rq import Queue, Retry
    from rq.executions import Execution
    from rq.job import Job
    from rq.registry import StartedJobRegistry


class Worker(RqWorker):
    """RQ's worker with a horse that lives on: it claims, runs and finishes jobs in a loop, one call to Redis for each.

    Arguments, methods and what is stored in Redis are RQ's. What differs (seeds 000, 002; RQ 2.12 otherwise): a job
    whose horse or whole worker is killed runs again, at the front of its queue, until it has killed
    `RQSTACK_MAX_CRASHES` horses; what has not ended when a stop's grace is over is put back instead of failed; a lost
    Redis ends neither the worker nor the job in hand; and only registered tasks run, unless
    `RQSTACK_ALLOW_UNREGISTERED` is set.
    """

    work_strategy: str = "default"
    """The order of queues: default (as given), round_robin or random."""

    killed_on_purpose: bool = False
    """Whether somebody asked for the horse to be killed, so that its death counts as the job's failure at once."""

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Work until stopped. Arguments and result as RQ's.

        Raises:
            ValueError: A worker of this name is alive, or the strategy is unknown.
        """
        if dequeue_strategy not in ("default", "random", "round_robin"):
            raise ValueError(
                f"Dequeue strategy {dequeue_strategy} is not allowed. Use `default`, `random` or `round_robin`."
            )
        self.work_strategy = DequeueStrategy(dequeue_strategy).value
        self.bootstrap(logging_level, date_format, log_format)
        if with_scheduler:
            self._start_scheduler(burst, logging_level, date_format, log_format)
        limits = Limits(burst=burst, max_jobs=max_jobs, max_idle=max_idle_time)
        supervisor = Supervisor([self], limits, commands=self.commands)
        try:
            supervisor.run()
        finally:
            self.teardown()  # type: ignore[no-untyped-call]
        return supervisor.jobs > 0

    commands: Commands | None = None
    """What listens for RQ's commands; a supervisor has one for all its workers."""

    def subscribe(self) -> None:
        """Listen for RQ's commands from here on, without a thread: the supervisor reads them."""
        self.commands = Commands([self])
        self.commands.subscribe()

    def register_again(self, job_id: str | None = None) -> None:
        """Write this worker's record anew, where it was lost while the worker lives (RQ never does: rq#469).

        Args:
            job_id: The job that it is running.
        """
        birth = self.birth_date
        with contextlib.suppress(ValueError):
            self.register_birth()  # type: ignore[no-untyped-call]
        if birth is not None:
            self.birth_date = birth
        # Unless the horse was faster.
        if job_id is not None:
            self.connection.hsetnx(self.key, "current_job", job_id)
        self.connection.hsetnx(self.key, "state", "busy" if job_id is not None else "idle")

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Kill the horse and what it has started. The supervisor then fails its job, as RQ does."""
        self.killed_on_purpose = True
        super().kill_horse(sig)

    def handle_job_retry(
        self, job: Job, queue: Queue, retry: Retry, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """As RQ's; but a job over its rate limit is put back, and counts neither as a failure nor as a retry."""
        if isinstance(retry, PutBack):
            put_back(self, job, queue, retry.wait)
        else:
            super().handle_job_retry(job, queue, retry, started_job_registry, execution)

    def procline(self, message: str) -> None:
        """The title of the process; not once a job, which would cost more than a short job."""
