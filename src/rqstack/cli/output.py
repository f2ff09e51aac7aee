"""Formats command output: tables and colours on a terminal, plain columns in a pipe, JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rqstack.processes.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as in shells."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def echo(text: object, *, err: bool = False) -> None:
    """Print a line. All that may come from Redis is printed by it: control characters do not reach the terminal.

    Args:
        err: To stderr.
    """
    click.echo(printable(str(text)), err=err)


def print_json(value: Any) -> None:
    """Print a JSON document. Values that JSON cannot represent are converted to strings."""
    echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table. Columns of numbers are right-aligned.

    Args:
        title: "" for none.
        rows: None becomes an empty cell.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        result.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Text instead of markup, because names and errors may contain square brackets.
        result.add_row(*(Text("" if value is None else printable(str(value))) for value in row))
    return result


def show(*parts: Any) -> None:
    """Print tables and lines: in a pipe without colours and without truncation."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=200, color_system=None)
    for part in parts:
        part = printable(part) if isinstance(part, str) else part
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr, if that is a terminal.

    Yields:
        A function that advances the bar by a number of steps.
    """
    if not sys.stderr.isatty():
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda steps: bar.advance(task, steps)


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation, if stdin and stderr are a terminal and `yes` is not set.

    Raises:
        click.Abort: The user declined.
    """
    if not yes and sys.stdin.isatty() and sys.stderr.isatty():
        click.confirm(question, abort=True, err=True)


def plural(number: int, noun: str) -> str:
    """'1 job', '2,000 jobs'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """'0.4 s', '3 min 20 s', '2 h 5 min', '3 d 4 h'; "" for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for unit, name, below, below_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"
