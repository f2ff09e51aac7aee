"""`rqstack result`: what became of a job (seed 002)."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from rqstack.cli.output import json_option, print_json


@click.command()
@click.argument("job", required=False)
@click.option("--jobid", metavar="ID", help="The same as JOB.")
@click.option("--traceback", is_flag=True, help="Print the whole traceback of a failed job.")
@json_option
def result(job: str | None, jobid: str | None, traceback: bool, as_json: bool) -> None:
    """Print what a JOB returned, or its state, or why it failed.

    Exit code: 0 it finished, 1 it failed, 2 not yet, 3 there is no such job.
    """
    if (job is None) == (jobid is None):
        raise click.UsageError("Give the id of a job.")
    from rqstack.cli.outcome import FAILURES, fetch_outcome
    from rqstack.settings import get_settings
    from rqstack.transport.client import connect

    settings = get_settings()
    with connect(settings) as connection:
        outcome = fetch_outcome(str(job or jobid), connection, settings)
    if as_json:
        print_json(outcome.as_dict() | ({"traceback": outcome.details or None} if traceback else {}))
    elif outcome.state == "finished":
        click.echo(as_text(outcome.value))
    elif outcome.state in FAILURES:
        click.echo(outcome.details.rstrip() if traceback and outcome.details else outcome.reason)
    else:
        click.echo(outcome.state)
    sys.exit(outcome.exit_code)


def as_text(value: Any) -> str:
    """A value as it is printed: words as they are, what JSON knows as JSON, the rest as Python shows it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
