"""`rqstack stack`: start and stop everything. `make` calls these."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

MODE = click.option(
    "--mode",
    type=click.Choice(["auto", "local", "compose"]),
    default="auto",
    show_default=True,
    help="compose needs a Docker engine; local runs the processes of the Procfile; auto takes compose if it can.",
)
MONITORING = click.option("--monitoring", is_flag=True, help="With rq-exporter, Prometheus and the web pages.")


@click.group()
def stack() -> None:
    """Start and stop the whole stack on this machine."""


def _scale(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for value in values:
        name, _, number = value.partition("=")
        if not name or not number.isdigit() or not 0 < int(number) <= 512:
            raise click.BadParameter(f"{value}: should be NAME=NUMBER, for example worker=8.")
        found[name] = int(number)
    return found


SCALE = click.option(
    "--scale", multiple=True, callback=_scale, metavar="NAME=N", help="How many of a process; repeatable."
)


@stack.command()
@MODE
@MONITORING
@SCALE
def start(mode: str, monitoring: bool, scale: dict[str, int]) -> None:
    """Start the stack in the background, and return when every process is well."""
    from rqstack.settings.paths import home
    from rqstack.stack import dependencies
    from rqstack.stack import mode as modes

    chosen, reason = modes.choose(mode)
    if reason:
        click.echo(reason)
    # Here in every mode: the commands of this machine import the tasks too.
    dependencies.prepare(home(), click.echo)
    if chosen == "compose":
        from rqstack.stack import compose

        compose.start(home(), click.echo, monitoring=monitoring, scale=scale)
        return
    from rqstack.stack import local

    local.start(home(), click.echo, monitoring=monitoring, scale=scale)
    for what, place in local.listening().items():
        click.echo(f"{what:12} {place}")
    click.echo("Try:         .venv/bin/rqstack trigger --url https://example.com")


@stack.command()
@MODE
@MONITORING
def stop(mode: str, monitoring: bool) -> None:
    """Stop the stack, monitoring included. Jobs that run get their grace; queued ones stay queued."""
    from rqstack.settings.paths import home
    from rqstack.stack import mode as modes

    if modes.running(mode) == "compose":
        from rqstack.stack import compose

        compose.stop(home(), click.echo)
        return
    from rqstack.stack import local

    click.echo("Stopped." if local.stop(home(), click.echo) else "Nothing runs.")


@stack.command()
@MODE
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(mode: str, as_json: bool) -> None:
    """Show what runs and whether it is well. Exit code 0 if all is, 1 if not, 3 if nothing runs."""
    from rqstack.settings.paths import home
    from rqstack.stack import mode as modes

    if modes.running(mode) == "compose":
        from rqstack.stack import compose

        sys.exit(compose.status(home(), click.echo, as_json=as_json))
    from rqstack.stack import local

    found = list(local.status(home()))
    if as_json:
        rows = [{"process": name, "pid": pid, "well": not why, "reason": why} for name, pid, why in found]
        click.echo(json.dumps({"mode": "local", "processes": rows, "listening": local.listening() if found else {}}))
    elif not found:
        click.echo("Nothing runs. Start it with: make start")
    else:
        for name, pid, why in found:
            click.echo(f"{name:16} {pid:>8}  {why or 'well'}")
        for what, place in local.listening().items():
            click.echo(f"{what:16} {place}")
    sys.exit(3 if not found else int(any(why for _, _, why in found)))


@stack.command()
@MODE
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C.")
@click.argument("processes", nargs=-1)
def logs(mode: str, follow: bool, processes: tuple[str, ...]) -> None:
    """Print the end of the logs, of all PROCESSES or of those named."""
    from rqstack.settings.paths import home
    from rqstack.stack import mode as modes

    if modes.running(mode) == "compose":
        from rqstack.stack import compose

        compose.logs(home(), processes, follow=follow)
        return
    from rqstack.stack import local

    local.logs(home(), processes, follow=follow, say=click.echo)


@stack.command()
def setup() -> None:
    """Make .env with random secrets if there is none, and the files that are made from it."""
    from rqstack.settings.paths import home
    from rqstack.stack import env

    made = env.setup()
    click.echo(f"{'Made' if made else 'Kept'} {home() / '.env'}.")


@stack.command()
@click.argument("process")
def run(process: str) -> None:
    """Run one PROCESS of the local stack in the foreground; each line of the Procfile is one of these."""
    from rqstack.stack.restart import RestartingProcess

    sys.exit(RestartingProcess(process).run())


@stack.command("deploy-tasks")
@MODE
def deploy_tasks(mode: str) -> None:
    """Ship the task code as it is now to the running workers, without restarting one."""
    from rqstack.settings.paths import home
    from rqstack.stack import compose, dependencies
    from rqstack.stack import mode as modes

    if modes.running(mode) == "local":
        dependencies.prepare(home(), click.echo)
        click.echo("Without Docker the workers use the folder of tasks in place: there is nothing else to ship.")
        return
    compose.deploy_tasks(home(), click.echo)


@stack.command("rollback-tasks")
@MODE
@click.argument("release", required=False)
def rollback_tasks(mode: str, release: str | None) -> None:
    """Go back to the task code of a RELEASE; default: the one before the current."""
    from rqstack.errors import RqstackError
    from rqstack.settings.paths import home
    from rqstack.stack import compose
    from rqstack.stack import mode as modes

    if modes.running(mode) == "local":
        raise RqstackError(
            "Without Docker the workers use the folder of tasks in place, so there are no releases to go back to: "
            "check out the version that you want."
        )
    compose.rollback_tasks(home(), click.echo, release)


@stack.command()
@SCALE
@click.option("--procfile", default="Procfile", show_default=True, help="Whose processes.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def systemd(folder: Path, procfile: str, scale: dict[str, int]) -> None:
    """Write a systemd unit for each process of the Procfile into FOLDER, for example ~/.config/systemd/user."""
    from rqstack.settings.paths import home
    from rqstack.stack import env
    from rqstack.stack import systemd as units

    env.setup()
    for path in units.export(home(), procfile, scale, folder):
        click.echo(path)


@stack.command("env-example")
@click.option("--markdown", is_flag=True, help="A table, as in docs/settings.md.")
def env_example(markdown: bool) -> None:
    """Print every setting with its default, as .env.example holds it."""
    from rqstack.stack import env

    click.echo(env.table() if markdown else env.example(), nl=False)
