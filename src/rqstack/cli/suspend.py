"""`rqstack suspend` and `resume`: stop workers from starting jobs, temporarily."""

from __future__ import annotations

import click

from rqstack.cli.output import echo


@click.command()
@click.option(
    "--duration", "-d", type=click.IntRange(1), metavar="SECONDS", help="Resume automatically after this time."
)
def suspend(duration: int | None) -> None:
    """Let workers finish their job but start no other until `resume`. Jobs can still be enqueued."""
    from rq.suspension import suspend as suspend_workers

    from rqstack.settings import get_settings
    from rqstack.transport.client import connect

    with connect(get_settings()) as connection:
        suspend_workers(connection, duration)
    echo(f"Suspended{f' for {duration} s' if duration else ''}. `rqstack resume` ends it.")


@click.command()
def resume() -> None:
    """Let suspended workers start jobs again."""
    from rq.suspension import resume as resume_workers

    from rqstack.settings import get_settings
    from rqstack.transport.client import connect

    with connect(get_settings()) as connection:
        was_suspended = resume_workers(connection)
    echo("Resumed." if was_suspended else "Workers were not suspended.")
