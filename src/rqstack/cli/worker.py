"""`rqstack worker`: run workers."""

from __future__ import annotations

import sys
from typing import Any

import click

from rqstack.cli import daemon


@click.group()
def worker() -> None:
    """Run workers."""


for _command in (daemon.start, daemon.stop, daemon.restart, daemon.status):
    worker.add_command(_command)


@worker.command()
@click.argument("queues", nargs=-1)
@click.option("--processes", "-n", type=click.IntRange(1, 512), help="Horses. Default: RQSTACK_PROCESSES.")
@click.option("--burst", "-b", is_flag=True, help="End when the queues are empty.")
@click.option("--name", help="Its name in Redis; with several horses, the start of theirs. Default: made up.")
@click.option("--max-jobs", type=click.IntRange(1), help="End after this many jobs, each horse.")
@click.option(
    "--max-idle-time", type=click.FloatRange(0), help="End after this many seconds without a job, each horse."
)
@click.option(
    "--dequeue-strategy",
    type=click.Choice(["default", "round_robin", "random"]),
    default="default",
    show_default=True,
    help="Order in which queues are looked at; default is as given.",
)
@click.option("--with-scheduler", is_flag=True, help="Run a scheduler process too.")
@click.option("--exception-handler", multiple=True, help="Dotted path of an RQ exception handler; may be repeated.")
@click.option("--reload", is_flag=True, help="Replace horses when a file of the task code is saved.")
@click.option(
    "--logging-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Least level that is logged. Default: RQSTACK_LOG_LEVEL.",
)
@click.option("--backend", help="Dotted path of a message backend to consume. Default: QUEUE_BACKEND; RQ if unset.")
def run(queues: tuple[str, ...], processes: int | None, burst: bool, backend: str | None, **options: Any) -> None:
    """Run a worker in the foreground. QUEUES in order of priority; default: RQSTACK_QUEUES.

    SIGTERM or Ctrl-C stops it warmly: jobs get RQSTACK_GRACE seconds, and what has not ended is put back. A second
    signal stops it at once, and puts back too.
    """
    from rqstack.worker.run import run_worker

    sys.exit(run_worker(queues, processes=processes, burst=burst, backend=backend, **options))
