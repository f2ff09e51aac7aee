"""`rqstack scheduler`: runs a scheduler process."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--name", help="Its name in Redis. Default: from host name and process id.")
def scheduler(name: str | None) -> None:
    """Run a scheduler in the foreground: it fires the cron table and moves delayed jobs. Any number may run.

    SIGHUP reloads the task code; a deploy or a `git pull` is detected automatically.
    """
    from rqstack.processes.logs import configure
    from rqstack.registry.discovery import add_current_folder
    from rqstack.registry.preload import preloaded_settings
    from rqstack.scheduling.process import SchedulerProcess

    add_current_folder()
    settings = preloaded_settings()
    configure(settings)
    sys.exit(SchedulerProcess(settings, name=name).run())
