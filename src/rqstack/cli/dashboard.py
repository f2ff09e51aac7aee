"""`rqstack dashboard`: serves the jobs page."""

from __future__ import annotations

import signal
import sys

import click

from rqstack.cli.output import echo


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port. Default: DASHBOARD_PORT.")
@click.option(
    "--login-link",
    is_flag=True,
    help="Print a link to the login that works while too many attempts come from your address, and end.",
)
def dashboard(host: str, port: int | None, login_link: bool) -> None:
    """Serve the jobs page (rq-dashboard) behind a login, until SIGTERM or Ctrl-C."""
    from rqstack.api.jobs_page import serve
    from rqstack.errors import RqstackError

    if login_link:
        from rqstack.api import login
        from rqstack.api.jobs_page import dashboard_password
        from rqstack.settings import StackSettings, load

        stack = load(StackSettings)
        echo(login.login_link(dashboard_password(stack), port or stack.dashboard_port))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        serve(host, port)
    except ModuleNotFoundError as error:
        raise RqstackError(
            f"The jobs page needs {error.name}, which is not installed. Run: pip install -r requirements/dashboard.txt"
        ) from error
