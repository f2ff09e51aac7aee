"""`rqstack stack`: starts, stops and inspects the stack. `make` calls these commands."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import click

from rqstack.cli.output import INTERRUPTED, echo

MODE = click.option(
    "--mode",
    type=click.Choice(["auto", "local", "compose"]),
    default="auto",
    show_default=True,
    help="compose needs a Docker engine; local runs the processes of the Procfile; auto prefers compose.",
)
STILL_RUNS = "The stack still runs. To stop it: make stop"
MONITORING = click.option("--monitoring", is_flag=True, help="Include rq-exporter, Prometheus and the web pages.")


@click.group()
def stack() -> None:
    """Start and stop the whole stack on this machine."""


def _scale(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    scale = {}
    for value in values:
        name, _, number = value.partition("=")
        if not name or not number.isdigit() or not 0 < int(number) <= 512:
            raise click.BadParameter(f"{value}: should be NAME=NUMBER, for example worker=8.")
        scale[name] = int(number)
    return scale


def _warn_of_unknown_settings() -> None:
    from rqstack.settings.unknown import unknown_settings

    for line in unknown_settings():
        echo(f"Warning: {line}", err=True)


SCALE = click.option(
    "--scale", multiple=True, callback=_scale, metavar="NAME=N", help="Number of instances of a process; repeatable."
)


@stack.command()
@MODE
@MONITORING
@SCALE
def start(mode: str, monitoring: bool, scale: dict[str, int]) -> None:
    """Start the stack in the background, and return when all processes are healthy."""
    from rqstack.settings.paths import home
    from rqstack.stack import checkout
    from rqstack.stack import mode as modes

    checkout.check(home())
    _warn_of_unknown_settings()
    chosen, reason = modes.choose(mode)
    if reason:
        echo(reason)
    (_start_compose if chosen == "compose" else _start_local)(monitoring, scale)
    echo("Try:         .venv/bin/rqstack trigger --url https://example.com")
    _warn_of_old_redis()


def _start_compose(monitoring: bool, scale: dict[str, int]) -> None:
    from rqstack.settings.paths import home
    from rqstack.stack import compose, dependencies

    # Commands on this machine import the tasks too.
    dependencies.prepare_projects(home(), echo)
    try:
        compose.start(home(), echo, monitoring=monitoring, scale=scale)
    except KeyboardInterrupt:
        echo("Interrupted. Containers that have started still run. To stop them: make stop", err=True)
        sys.exit(INTERRUPTED)


def _start_local(monitoring: bool, scale: dict[str, int]) -> None:
    from rqstack.settings.paths import home
    from rqstack.stack import local

    local.start(home(), echo, monitoring=monitoring, scale=scale)
    for title, address in local.addresses(home()).items():
        login = local.login() if title == local.JOBS_PAGE else ""
        echo(f"{title:12} {address}{login}")


def _warn_of_old_redis() -> None:
    from redis.exceptions import RedisError

    from rqstack.settings import Settings, load
    from rqstack.transport.client import connect
    from rqstack.transport.redis_version import lua_warning

    with contextlib.suppress(RedisError), connect(load(Settings), retries=0) as client:
        if warning := lua_warning(client.info("server")):
            echo(f"Warning: {warning}", err=True)


@stack.command()
@MODE
@MONITORING
@click.option("--only-monitoring", is_flag=True, help="Leave the stack itself running.")
def stop(mode: str, monitoring: bool, only_monitoring: bool) -> None:
    """Stop the stack, including monitoring. Running jobs get their grace period; queued jobs stay queued."""
    from rqstack.settings.paths import home
    from rqstack.stack import mode as modes

    if modes.running(mode) == "compose":
        from rqstack.stack import compose

        (compose.stop_monitoring if only_monitoring else compose.stop)(home(), echo)
        return
    from rqstack.stack import local

    if only_monitoring:
        local.stop_monitoring(home(), echo)
        return
    echo("Stopped." if local.stop(home(), echo) else "Nothing runs.")


@stack.command()
@MODE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(mode: str, as_json: bool) -> None:
    """Show the running processes and their health. Exit code: 0 all are healthy, 1 some are not, 3 none runs."""
    from rqstack.settings.paths import home
    from rqstack.stack import mode as modes

    if modes.running(mode) == "compose":
        from rqstack.stack import compose

        sys.exit(compose.status(home(), echo, as_json=as_json))
    from rqstack.stack import local

    running = list(local.status(home()))
    listening = local.addresses(home()) if running else {}
    if as_json:
        rows = [
            {"process": name, "pid": pid, "healthy": not problem, "reason": problem} for name, pid, problem in running
        ]
        echo(json.dumps({"mode": "local", "processes": rows, "listening": listening}))
    elif not running:
        echo("Nothing runs. Start it with: make start")
    else:
        for name, pid, problem in running:
            echo(f"{name:16} {pid:>8}  {problem or 'healthy'}")
        for title, address in listening.items():
            echo(f"{title:16} {address}")
    sys.exit(3 if not running else int(any(problem for _, _, problem in running)))


@stack.command()
@MODE
@click.option("--follow", "-f", is_flag=True, help="Keep printing until Ctrl-C.")
@click.argument("processes", nargs=-1)
def logs(mode: str, follow: bool, processes: tuple[str, ...]) -> None:
    """Print the end of the logs of PROCESSES; default: all."""
    from rqstack.settings.paths import home
    from rqstack.stack import mode as modes

    try:
        if modes.running(mode) == "compose":
            from rqstack.stack import compose

            sys.exit(compose.logs(home(), processes, follow=follow))
        from rqstack.stack import local

        local.logs(home(), processes, follow=follow, report=echo)
    except KeyboardInterrupt:
        echo(STILL_RUNS, err=True)
        sys.exit(INTERRUPTED)


@stack.command()
def setup() -> None:
    """Create .env with random secrets if it does not exist, and generate files from it."""
    from rqstack.settings.paths import home
    from rqstack.stack import checkout, env

    checkout.check(home())
    _warn_of_unknown_settings()
    is_new = env.setup()
    echo(f"{'Created' if is_new else 'Kept'} {home() / '.env'}.")


@stack.command("pin-images")
def pin_images() -> None:
    """Write the digest of each public image into .env, so that a tag that moves changes nothing."""
    from rqstack.settings.paths import home
    from rqstack.stack import pinned

    pinned.pin(home(), echo)


@stack.command()
@click.argument("process")
def run(process: str) -> None:
    """Run one PROCESS of the local stack in the foreground. The Procfile uses this."""
    from rqstack.stack.restart import RestartingProcess

    sys.exit(RestartingProcess(process).run())


@stack.command("deploy-tasks")
@MODE
def deploy_tasks(mode: str) -> None:
    """Ship the current task code to the running workers, without a restart."""
    from rqstack.settings.paths import home
    from rqstack.stack import checkout, compose, local
    from rqstack.stack import mode as modes

    checkout.check(home())
    if modes.running(mode) == "local":
        local.deploy_tasks(home(), echo)
        return
    compose.deploy_tasks(home(), echo)


@stack.command("rollback-tasks")
@MODE
@click.argument("release", required=False)
def rollback_tasks(mode: str, release: str | None) -> None:
    """Switch back to the task code of a RELEASE; default: the one before the current."""
    from rqstack.errors import RqstackError
    from rqstack.settings.paths import home
    from rqstack.stack import compose
    from rqstack.stack import mode as modes

    if modes.running(mode) == "local":
        raise RqstackError(
            "Without Docker the workers use the task folder directly, so there are no releases. Check out the version "
            "that you want instead."
        )
    compose.rollback_tasks(home(), echo, release)


@stack.command()
@SCALE
@click.option("--procfile", default="Procfile", show_default=True, help="The Procfile to read.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def systemd(folder: Path, procfile: str, scale: dict[str, int]) -> None:
    """Write a systemd unit for each process of the Procfile into FOLDER, for example ~/.config/systemd/user."""
    from rqstack.settings.paths import home
    from rqstack.stack import checkout, env, local
    from rqstack.stack import systemd as units

    checkout.check(home())
    env.setup()
    for path in units.export(home(), procfile, local.with_workers(scale), folder):
        echo(path)


@stack.command("env-example")
@click.option("--markdown", is_flag=True, help="Print tables, as in docs/settings.md.")
def env_example(markdown: bool) -> None:
    """Print all settings with their defaults, in the format of .env.example."""
    from rqstack.stack import env

    click.echo(env.table() if markdown else env.example(), nl=False)
