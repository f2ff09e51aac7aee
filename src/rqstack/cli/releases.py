"""`rqstack tasks build`, `install`, `rollback` and `releases`: ship task code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rqstack.cli.output import echo

if TYPE_CHECKING:
    from rqstack.stack.releases import Releases

FOLDER = click.Path(path_type=Path, file_okay=False, resolve_path=True)
INTO = click.option(
    "--into", type=FOLDER, default=Path("/tasks"), show_default=True, help="Folder of releases, on a shared volume."
)


@click.command()
@click.argument("sources", nargs=-1, required=True, type=FOLDER)
@click.option("--into", type=FOLDER, required=True, help="Target folder, with one sub-folder per project.")
def build(sources: tuple[Path, ...], into: Path) -> None:
    """Build the projects in folders, each with its own dependencies. Used by services/Dockerfile."""
    from rqstack.stack import build_projects

    names = build_projects.build(sources, into, echo)
    echo(f"Built: {', '.join(names) or 'no project'}.")


@click.command()
@click.argument("source", type=FOLDER)
@INTO
@click.option("--again", is_flag=True, help="Also install what was installed last, for example after a rollback.")
def install(source: Path, into: Path, again: bool) -> None:
    """Install built packages as a new release, and switch to it. A release that cannot be imported is refused."""
    release, new = _releases(into).install(source, again=again)
    done = "installed" if new else "is already current"
    echo(f"Release {release.id} {done}: {', '.join(release.projects)}.")


@click.command()
@click.argument("release", required=False)
@INTO
def rollback(release: str | None, into: Path) -> None:
    """Switch back to the release before the current one, or to RELEASE."""
    current = _releases(into).rollback(release)
    echo(f"Release {current.id} is current again: {', '.join(current.projects)}.")


@click.command()
@INTO
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def releases(into: Path, as_json: bool) -> None:
    """List the installed releases; a star marks the current one."""
    installed = _releases(into).all()
    if as_json:
        import json

        rows = [{"id": each.id, "current": each.current, "projects": list(each.projects)} for each in installed]
        echo(json.dumps(rows))
        return
    for each in installed:
        echo(f"{'*' if each.current else ' '} {each.id}  {', '.join(each.projects)}")


def _releases(into: Path) -> Releases:
    from rqstack.settings import StackSettings, load
    from rqstack.stack.releases import Releases

    return Releases(into, load(StackSettings).keep_releases)
