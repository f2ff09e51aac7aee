"""The worker that RQ's own command runs: `rq worker -w rqstack.worker.Worker`."""

from __future__ import annotations

from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.worker.base import DequeueStrategy

from rqstack.errors import BrokerUnavailable, IncompatibleSchema
from rqstack.settings import get_settings
from rqstack.transport import keys
from rqstack.transport.client import client_url
from rqstack.transport.schema import SharedSchema
from rqstack.worker.base import BaseWorker
from rqstack.worker.limits import Limits
from rqstack.worker.supervisor.commands import CommandListener
from rqstack.worker.supervisor.supervisor import Supervisor


class Worker(BaseWorker):
    """RQ's worker with a horse that lives on: it claims, runs and finishes jobs in a loop, one call to Redis for each.

    Arguments, methods and what is stored in Redis are RQ 3.0's, except: a job whose horse or whole worker is killed
    runs again, at the front of its queue, until it has killed `RQSTACK_MAX_CRASHES` horses; what has not ended when a
    stop's grace is over is put back instead of failed; a lost Redis ends neither the worker nor the running job; and
    only registered tasks run, unless `RQSTACK_ALLOW_UNREGISTERED` is set.
    """

    _commands: CommandListener | None = None

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
            SystemExit: The data in Redis is of a version that this release cannot share.
            ValueError: A worker of this name is alive, the strategy is unknown, or the job class has keys of its own.
        """
        if self.job_class.redis_job_namespace_prefix != keys.JOB:
            raise ValueError(
                f"The jobs of {self.job_class.__name__} are kept below {self.job_class.redis_job_namespace_prefix}, "
                f"where this worker does not look. Use {keys.JOB}, RQ's own prefix."
            )
        if dequeue_strategy not in ("default", "random", "round_robin"):
            raise ValueError(
                f"Dequeue strategy {dequeue_strategy} is not allowed. Use `default`, `random` or `round_robin`."
            )
        self.work_strategy = DequeueStrategy(dequeue_strategy).value
        try:
            SharedSchema(get_settings(), client_url(self.connection)).wait_to_join(self.connection)
        except (BrokerUnavailable, IncompatibleSchema) as error:
            # RQ's command would print a traceback for any other exception.
            raise SystemExit(f"Error: {error}") from None
        self.bootstrap(logging_level, date_format, log_format)
        if with_scheduler:
            self._start_scheduler(burst, logging_level, date_format, log_format)
        limits = Limits(burst=burst, max_jobs=max_jobs, max_idle=max_idle_time)
        supervisor = Supervisor([self], limits, commands=self._commands)
        try:
            supervisor.run()
        finally:
            self.teardown()  # type: ignore[no-untyped-call]
        return supervisor.jobs > 0

    def subscribe(self) -> None:
        """Listen for RQ's commands from here on, without a thread: the supervisor reads them."""
        self._commands = CommandListener([self])
        self._commands.subscribe()
