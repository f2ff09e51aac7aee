"""`rqstack worker`: run workers."""

from __future__ import annotations

import sys

import click


@click.group()
def worker() -> None:
    """Run workers."""


@worker.command()
@click.argument("queues", nargs=-1)
@click.option("--processes", "-n", type=click.IntRange(1, 512), help="Horses. Default: RQSTACK_PROCESSES.")
@click.option("--burst", "-b", is_flag=True, help="End when the queues are empty.")
def run(queues: tuple[str, ...], processes: int | None, burst: bool) -> None:
    """Run a worker in the foreground. QUEUES in order of priority; default: RQSTACK_QUEUES."""
    from rqstack.settings import get_settings
    from rqstack.worker.supervisor import Supervisor

    settings = get_settings()
    sys.exit(Supervisor(queues or settings.queues, settings, processes=processes, burst=burst).run())
