"""`rqstack worker`: runs workers."""

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
@click.option("--burst", "-b", is_flag=True, help="Exit when the queues are empty.")
@click.option("--name", help="Its name in Redis; with several horses, a prefix of theirs. Default: random.")
@click.option("--max-jobs", type=click.IntRange(1), help="Jobs after which each horse exits.")
@click.option("--max-idle-time", type=click.FloatRange(0), help="Seconds without a job after which each horse exits.")
@click.option(
    "--dequeue-strategy",
    type=click.Choice(["default", "round_robin", "random"]),
    default="default",
    show_default=True,
    help="Order in which queues are polled; default: as given.",
)
@click.option("--with-scheduler", is_flag=True, help="Also run a scheduler process.")
@click.option("--exception-handler", multiple=True, help="Dotted path of an RQ exception handler; may be repeated.")
@click.option("--reload", is_flag=True, help="Replace horses when a file of the task code changes.")
@click.option(
    "--logging-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="Minimum log level. Default: RQSTACK_LOG_LEVEL.",
)
@click.option("--backend", help="Dotted path of a message backend to consume. Default: QUEUE_BACKEND, or RQ.")
def run(queues: tuple[str, ...], processes: int | None, burst: bool, backend: str | None, **options: Any) -> None:
    """Run a worker in the foreground. QUEUES in order of priority; default: RQSTACK_QUEUES.

    Modules in the current folder can be imported, as with `rq worker`.

    SIGTERM or Ctrl-C stops it gracefully: running jobs have RQSTACK_GRACE seconds to finish, and are requeued if they
    do not. A second signal stops it at once, and requeues them.
    """
    from rqstack.registry.discovery import add_current_folder
    from rqstack.worker.run import run_worker

    add_current_folder()
    sys.exit(run_worker(queues, processes=processes, burst=burst, backend=backend, **options))
