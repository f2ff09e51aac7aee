"""`rqstack worker start|stop|restart|status`: runs a worker in the background."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rqstack.cli.output import echo

if TYPE_CHECKING:
    from rqstack.daemon.daemon import Daemon

# Exit codes of LSB init scripts.
DEAD_WITH_PID_FILE = 1
NOT_RUNNING = 3


def path_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that identify a background worker."""
    path = click.Path(dir_okay=False, path_type=Path)
    command = click.option("-p", "--pid", "pid_file", type=path, help="Pid file. Default: var/run/worker.pid.")(command)
    return click.option("-l", "--log", "log_file", type=path, help="Log file. Default: var/log/worker.log.")(command)


def start_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Arguments and options to start a worker."""
    for decorate in (
        click.option("--wait", type=float, default=30.0, show_default=True, help="Seconds to wait until it is ready."),
        click.option("--backend", help="Dotted path of a message backend to consume. Default: QUEUE_BACKEND."),
        click.option("--processes", "-n", type=click.IntRange(1, 512), help="Default: RQSTACK_PROCESSES."),
        click.argument("queues", nargs=-1),
    ):
        command = decorate(command)
    return path_options(command)


def make_daemon(pid_file: Path | None, log_file: Path | None, backend: str | None = None) -> Daemon:
    """The background worker that the options identify."""
    from msgspec.structs import replace

    from rqstack.daemon.daemon import Daemon
    from rqstack.registry.preload import preloaded_settings
    from rqstack.settings.paths import home

    settings = preloaded_settings()
    if backend:
        settings = replace(settings, queue_backend=backend)
    log_path = log_file or home() / "var" / "log" / "worker.log"
    return Daemon(pid_file or home() / "var" / "run" / "worker.pid", log_path, settings)


@click.command()
@start_options
def start(**options: Any) -> None:
    """Start a worker in the background. QUEUES in order of priority; default: RQSTACK_QUEUES."""
    _start(make_daemon(options["pid_file"], options["log_file"], options["backend"]), options)


@click.command()
@path_options
def stop(pid_file: Path | None, log_file: Path | None) -> None:
    """Stop it gracefully: running jobs have RQSTACK_GRACE seconds to finish."""
    _stop(make_daemon(pid_file, log_file))


@click.command()
@start_options
def restart(**options: Any) -> None:
    """Stop it if it runs, then start it."""
    daemon = make_daemon(options["pid_file"], options["log_file"], options["backend"])
    daemon.check()
    _stop(daemon)
    _start(daemon, options)


@click.command()
@path_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(pid_file: Path | None, log_file: Path | None, as_json: bool) -> None:
    """Show whether it runs. Exit code: 0 running, 1 died, 3 not running."""
    daemon = make_daemon(pid_file, log_file)
    pid = daemon.pid()
    path = daemon.pid_file.path
    children = daemon.children(pid) if pid is not None else []
    if as_json:
        echo(json_module.dumps({"running": pid is not None, "pid": pid, "children": children}))
    elif pid is not None:
        echo(f"Running: process {pid} with {len(children)} children ({path}).")
    elif path.exists():
        echo(f"Not running: it died and left {path} behind. See {daemon.log_path}.")
    else:
        echo("Not running.")
    if pid is None:
        sys.exit(DEAD_WITH_PID_FILE if path.exists() else NOT_RUNNING)


def _start(daemon: Daemon, options: dict[str, Any]) -> None:
    def run(on_ready: Callable[[], None]) -> int:
        from rqstack.worker.run import run_worker

        return run_worker(
            options["queues"], processes=options["processes"], backend=options["backend"], on_ready=on_ready
        )

    pid = daemon.start(run, wait=options["wait"])
    echo(f"Started: process {pid}; log {daemon.log_path}.")


def _stop(daemon: Daemon) -> None:
    stale = daemon.pid() is None and daemon.pid_file.path.exists()
    stopped = daemon.stop()
    if stopped is None:
        echo("Not running: removed a stale pid file." if stale else "Not running.")
    elif stopped[1]:
        echo(f"Killed: process {stopped[0]} did not stop within {daemon.settings.grace} s. Its jobs run again.")
    else:
        echo(f"Stopped: process {stopped[0]}.")
