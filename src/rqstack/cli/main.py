"""The `rqstack` command: each sub-command is loaded when it is called."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from rqstack.errors import RqstackError

# name -> (module with the command, attribute, its line in `rqstack --help`)
COMMANDS = {
    "worker": ("rqstack.cli.worker", "worker", "Run workers."),
}


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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rqstack")
def cli() -> None:
    """Background jobs on RQ: enqueue, look, and run."""


def main() -> None:
    """The entry point: errors for people are one line on stderr, and an exit code."""
    try:
        cli(standalone_mode=True)
    except RqstackError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
