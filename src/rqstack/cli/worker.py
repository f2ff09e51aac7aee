"""`rqstack worker`: run workers."""

from __future__ import annotations

import sys

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
@click.option("--backend", help="Dotted path of a message backend to consume. Default: QUEUE_BACKEND; RQ if unset.")
def run(queues: tuple[str, ...], processes: int | None, burst: bool, backend: str | None) -> None:
    """Run a worker in the foreground. QUEUES in order of priority; default: RQSTACK_QUEUES."""
    from rqstack.worker.launch import launch

    sys.exit(launch(queues, processes=processes, burst=burst, backend=backend))
