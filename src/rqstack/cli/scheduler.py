"""`rqstack scheduler`: run a scheduler process."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--name", help="Its name in Redis. Default: made of host name and process id.")
def scheduler(name: str | None) -> None:
    """Run a scheduler in the foreground: it fires the cron table and moves delayed jobs. Any number may run.

    SIGHUP reads the task code again; a deploy or a `git pull` is noticed by itself.
    """
    from rqstack.processes.logs import configure
    from rqstack.registry.preload import preloaded_settings
    from rqstack.scheduling.process import SchedulerProcess

    settings = preloaded_settings()
    configure(settings)
    sys.exit(SchedulerProcess(settings, name=name).run())
