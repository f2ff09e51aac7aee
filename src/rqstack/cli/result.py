"""`rqstack result`: prints the result of a job."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from rqstack.cli.output import echo, json_option, print_json


@click.command()
@click.argument("job", required=False)
@click.option("--jobid", metavar="ID", help="Same as JOB.")
@click.option("--traceback", is_flag=True, help="Print the full traceback of a failed job.")
@json_option
def result(job: str | None, jobid: str | None, traceback: bool, as_json: bool) -> None:
    """Print the result of a JOB, why it failed, or its state if it has not ended.

    Exit code: 0 finished, 1 failed, 2 not ended, 3 no such job.
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
        echo(format_value(outcome.value))
    elif outcome.state in FAILURES:
        echo(outcome.details.rstrip() if traceback and outcome.details else outcome.reason)
    else:
        echo(outcome.state)
    sys.exit(outcome.exit_code)


def format_value(value: Any) -> str:
    """Format a result: strings as they are, other JSON values as JSON, everything else as its `repr`."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)
