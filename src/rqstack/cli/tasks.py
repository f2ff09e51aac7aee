"""`rqstack tasks`: lists, checks and ships tasks."""

from __future__ import annotations

import sys

import click

from rqstack.cli.output import echo, json_option, print_json, show, table
from rqstack.cli.releases import build, install, releases, rollback


@click.group()
def tasks() -> None:
    """List and check tasks, and ship their code."""


@tasks.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the registered tasks. Modules that cannot be imported are reported on stderr."""
    from rqstack.registry.discovery import autodiscover
    from rqstack.registry.preload import preload
    from rqstack.registry.registry import registry

    _silence_discovery()
    found = autodiscover(preload())
    rows = [
        {
            "name": task.name,
            "project": found.modules.get(task.func.__module__) or None,
            "queue": task.options.queue,
            "retries": task.options.retries,
            "timeout": task.options.timeout,
            "rate_limit": _rate(task.options.rate_limit),
            "cron": task.options.cron,
            "description": (task.func.__doc__ or "").strip().partition("\n")[0],
        }
        for task in registry
    ]
    if as_json:
        print_json({"tasks": rows, "failures": [{"name": each.name, "reason": each.reason} for each in found.failures]})
    else:
        columns = ("name", "queue", "retries", "rate_limit", "cron", "description")
        headings = ("Task", "Queue", "Retries", "Rate limit", "Cron", "Description")
        show(table("", headings, [[row[column] for column in columns] for row in rows]))
        for failure in found.failures:
            echo(f"Error: {failure}", err=True)


@tasks.command()
@click.option("--traceback", is_flag=True, help="Also print the traceback of each failure.")
def check(traceback: bool) -> None:
    """Import all task code, and report each module that fails. Exit code: 0 none failed, 1 some failed."""
    from rqstack.registry.discovery import autodiscover
    from rqstack.registry.preload import preload
    from rqstack.registry.registry import registry

    _silence_discovery()
    found = autodiscover(preload())
    for failure in found.failures:
        echo(f"Error: {failure}", err=True)
        if traceback and failure.details:
            echo(failure.details, err=True)
    modules = sum(1 for project in found.modules.values() if project)
    echo(f"{len(registry)} tasks; {modules} modules of projects load, {len(found.failures)} fail.")
    sys.exit(1 if found.failures else 0)


def _rate(limit: object) -> str | None:
    return None if limit is None else "by arguments" if callable(limit) else str(limit)


def _silence_discovery() -> None:
    """Do not log failures, because the command prints them."""
    import logging

    logging.getLogger("rqstack.discovery").setLevel(logging.CRITICAL)


for command in (build, install, releases, rollback):
    tasks.add_command(command)
