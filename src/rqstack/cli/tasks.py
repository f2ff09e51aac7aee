"""`rqstack tasks`: ship task code."""

from __future__ import annotations

import click

from rqstack.cli.releases import build, install, releases, rollback


@click.group()
def tasks() -> None:
    """Ship task code."""


for command in (build, install, releases, rollback):
    tasks.add_command(command)
