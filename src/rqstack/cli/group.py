"""The click group of `rqstack`: imports commands on first use, and prints errors as one line."""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib import import_module
from importlib.metadata import version

import click

from rqstack.cli.output import INTERRUPTED, echo
from rqstack.errors import RqstackError, did_you_mean

# name -> (module of the command, attribute, line in `rqstack --help`)
COMMANDS = {
    "dashboard": ("rqstack.cli.dashboard", "dashboard", "Serve the jobs page."),
    "empty": ("rqstack.cli.bulk", "empty", "Delete the queued jobs of queues."),
    "health": ("rqstack.cli.health_command", "health", "Check whether Redis, workers and queues are healthy."),
    "info": ("rqstack.cli.info", "info", "Show queues and workers."),
    "purge": ("rqstack.cli.bulk", "purge", "Delete the queued, failed or scheduled jobs of a queue."),
    "requeue": ("rqstack.cli.bulk", "requeue", "Requeue failed jobs."),
    "result": ("rqstack.cli.result", "result", "Show the result of a job."),
    "resume": ("rqstack.cli.suspend", "resume", "Resume suspended workers."),
    "scheduler": ("rqstack.cli.scheduler", "scheduler", "Fire the cron table and move delayed jobs."),
    "secrets": ("rqstack.cli.secrets", "secrets", "Change the signing key and the Redis passwords."),
    "smoke": ("rqstack.cli.smoke", "smoke", "Run test jobs through the queues, and count the results."),
    "stack": ("rqstack.cli.stack", "stack", "Start and stop the whole stack on this machine."),
    "suspend": ("rqstack.cli.suspend", "suspend", "Stop workers from starting jobs."),
    "tasks": ("rqstack.cli.tasks", "tasks", "List and check tasks, and ship their code."),
    "trigger": ("rqstack.cli.trigger", "trigger", "Enqueue a job."),
    "wait": ("rqstack.cli.wait", "wait", "Wait until jobs have ended."),
    "worker": ("rqstack.cli.worker", "worker", "Run workers."),
}

_FILE_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
}
"""Errors of a file that a person can mend."""

DESTRUCTIVE = {"empty", "purge"}
"""Commands that delete jobs: they are never suggested."""

OTHER_NAMES = {"enqueue": "trigger", "rerun": "requeue", "restart": "requeue", "retry": "requeue", "start": "stack"}
"""Words that people try, and the command that does it."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is called, which keeps commands fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            word = OTHER_NAMES.get(args[0], args[0])
            hint = did_you_mean(word, COMMANDS.keys() - DESTRUCTIVE, most=1 if word in COMMANDS else 3)
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table, because importing every command for its help takes most of a second.
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        echo(f"rqstack {version('rqstack')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """Background jobs on RQ: enqueue, inspect and run them."""


def run(arguments: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: Default: those of the process.

    Returns:
        The exit code: 2 for a wrong option, 130 after Ctrl-C, else the `exit_code` of the error. Expected errors are
        printed as one line on stderr, without a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what is read from Redis may be any text
    try:
        value = cli.main(arguments, prog_name="rqstack", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("Stopped.", err=True)
        return INTERRUPTED
    except RqstackError as error:
        echo(f"Error: {error}", err=True)
        return error.exit_code
    except OSError as error:
        if error.errno not in _FILE_ERRORS or not isinstance(error.filename, (str, os.PathLike)):
            raise
        echo(f"Error: {os.fspath(error.filename)}: {error.strerror}. Check its owner and permissions.", err=True)
        return 1
    except Exception as error:
        if message := _explain_redis_error(error):
            echo(f"Error: {message}", err=True)
            return 1
        raise
    return value if isinstance(value, int) else 0


def _explain_redis_error(error: Exception) -> str | None:
    """A sentence for an error of redis-py; None for any other error."""
    from redis.exceptions import RedisError

    if not isinstance(error, RedisError):
        return None
    from rqstack.settings import get_settings
    from rqstack.transport.client import explain

    return str(explain(error, get_settings().redis_url))
