"""The click group behind `rqstack`: its sub-commands, loaded when they are called, and errors as one line."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

import click

from rqstack.errors import RqstackError

# name -> (module with the command, attribute, its line in `rqstack --help`)
COMMANDS = {
    "dashboard": ("rqstack.cli.dashboard", "dashboard", "Serve the web page of jobs."),
    "empty": ("rqstack.cli.bulk", "empty", "Delete the waiting jobs of queues."),
    "health": ("rqstack.cli.health_command", "health", "Tell whether Redis, workers and queues are alive."),
    "info": ("rqstack.cli.info", "info", "Show queues, workers and states."),
    "purge": ("rqstack.cli.bulk", "purge", "Delete the queued, failed or scheduled jobs of a queue."),
    "requeue": ("rqstack.cli.bulk", "requeue", "Put failed jobs back on their queues."),
    "result": ("rqstack.cli.result", "result", "Show what became of a job."),
    "resume": ("rqstack.cli.suspend", "resume", "Let suspended workers start jobs again."),
    "scheduler": ("rqstack.cli.scheduler", "scheduler", "Fire the cron table and move delayed jobs."),
    "smoke": ("rqstack.cli.smoke", "smoke", "Run small jobs over the queues, and count what became of them."),
    "stack": ("rqstack.cli.stack", "stack", "Start and stop the whole stack on this machine."),
    "suspend": ("rqstack.cli.suspend", "suspend", "Let workers start no jobs for a while."),
    "tasks": ("rqstack.cli.tasks", "tasks", "List and check tasks, and ship their code."),
    "trigger": ("rqstack.cli.trigger", "trigger", "Enqueue a job."),
    "wait": ("rqstack.cli.wait", "wait", "Wait until jobs have ended."),
    "worker": ("rqstack.cli.worker", "worker", "Run workers."),
}

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""


class LazyGroup(click.Group):
    """A group that imports a sub-command when it is called, so that a quick command stays quick."""

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
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table: to import every command for one line of help takes most of a second.
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][2]) for name in self.list_commands(ctx)])


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"rqstack {version('rqstack')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli() -> None:
    """Background jobs on RQ: enqueue, look, and run."""


def run(arguments: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: Default: those of the process.

    Returns:
        The exit code. An error for a person is one line on stderr, without a traceback: 2 for a wrong option, 130
        after Ctrl-C, else the `exit_code` of the error.
    """
    try:
        value = cli.main(arguments, prog_name="rqstack", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        return INTERRUPTED
    except RqstackError as error:
        click.echo(f"Error: {error}", err=True)
        return error.exit_code
    except Exception as error:
        if sentence := _redis_sentence(error):
            click.echo(f"Error: {sentence}", err=True)
            return 1
        raise
    return value if isinstance(value, int) else 0


def _redis_sentence(error: Exception) -> str | None:
    """What an error of Redis's client means, or None for any other error."""
    from redis.exceptions import RedisError

    if not isinstance(error, RedisError):
        return None
    from rqstack.settings import get_settings
    from rqstack.transport.client import explain

    return str(explain(error, get_settings().redis_url))
