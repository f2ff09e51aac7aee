"""Registers `rqstack health` with click. The entry point calls `rqstack.cli.health` directly, which is faster."""

from __future__ import annotations

import sys

import click


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def health(arguments: tuple[str, ...]) -> None:
    from rqstack.cli.health import main

    sys.exit(main(list(arguments)))
