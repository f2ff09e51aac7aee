"""Cron entries declared in task code: `@task(cron=…)`, and `schedule(…)` in the `cron.py` of a project."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rqstack.errors import RqstackError
from rqstack.registry.registry import registry
from rqstack.registry.timetable import Cron, Interval, Timetable
from rqstack.scheduling.entries import DECLARED, Entry, check_misfire_grace
from rqstack.scheduling.jobs import Function, ScheduledCall, make_call, make_entry

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings


@dataclass(frozen=True)
class CronDeclaration:
    """A cron entry as code declares it."""

    call: ScheduledCall
    timetable: Timetable
    name: str | None
    misfire_grace: int


@dataclass
class CronDeclarations:
    """Everything that the task code declares.

    Args:
        sources: The sources that the entries cover, for `CronTable.sync`.
        problems: One sentence for each module that did not import and each invalid declaration.
    """

    entries: list[Entry] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


_collecting: ContextVar[list[CronDeclaration] | None] = ContextVar("rqstack_cron_collecting", default=None)


def schedule(
    function: Function,
    cron: str | None = None,
    *,
    every: float | timedelta | None = None,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    timezone: str = "UTC",
    misfire_grace: float | None = None,
    **options: Any,
) -> None:
    """Declare a cron entry in the `cron.py` of a project. Elsewhere the call only validates its arguments.

    Args:
        cron: A cron expression: five fields, six with seconds last, or an alias such as `@daily`.
        every: Instead of `cron`: an interval in seconds or as a timedelta.
        name: Identifies the entry, so that times and arguments can change. Required if two entries of a task have the
            same times and arguments, or if JSON cannot represent the arguments.
        timezone: The time zone of `cron`.
        misfire_grace: Seconds by which a missed firing may still run. Default: an hour.
        options: Options of `@task` for its jobs, such as `queue` and `retries`.

    Raises:
        ValueError: The times or an option are invalid; the message names them.
        InvalidJob: The function is not a task, or the arguments do not match its signature.
    """
    call = make_call(function, args, kwargs, options)
    declare(call, make_timetable(cron, every, timezone), name, misfire_grace)


def make_timetable(cron: str | None, every: float | timedelta | None, timezone: str) -> Timetable:
    """A timetable from the arguments `cron`, `every` and `timezone`.

    Raises:
        ValueError: Neither or both of `cron` and `every` are given, or one is invalid.
    """
    if (cron is None) == (every is None):
        raise ValueError("give either cron= or every=.")
    return Interval(every) if every is not None else Cron(cron or "", timezone)


def declare(call: ScheduledCall, timetable: Timetable, name: str | None, misfire_grace: float | None) -> bool:
    """Add a declaration if declarations are being collected. Returns whether they are.

    Raises:
        ValueError: misfire_grace is out of range.
    """
    grace = check_misfire_grace(misfire_grace)
    declarations = _collecting.get()
    if declarations is None:
        return False
    declarations.append(CronDeclaration(call, timetable, name, grace))
    return True


@contextlib.contextmanager
def collect_declarations() -> Iterator[list[CronDeclaration]]:
    """Collect what `schedule` and `job_scheduler(cron=…)` declare inside this context, as a list."""
    declarations: list[CronDeclaration] = []
    token = _collecting.set(declarations)
    try:
        yield declarations
    finally:
        _collecting.reset(token)


def load_declarations(connection: Redis, settings: Settings) -> CronDeclarations:
    """Import all task code and collect its cron entries. Run it in a separate process: imported modules stay loaded."""
    from rqstack.registry.discovery import CRON, MODULES, autodiscover, discover_packages
    from rqstack.registry.preload import preload

    with collect_declarations() as declarations:
        settings = preload(settings)
        found = autodiscover(settings, modules=(*MODULES, CRON))
        # Tasks outside of projects (RQSTACK_MODULES, Django apps) may have a `cron.py` beside them too.
        modules = {task.func.__module__ for task in registry} - {name for name, of in found.modules.items() if of}
        packages = sorted({module.rpartition(".")[0] for module in modules} - {"", "rqstack"})
        others = discover_packages(packages, (CRON,))
    declared = CronDeclarations(problems=[str(failure) for failure in (*found.failures, *others.failures)])
    # A scheduler that serves some projects must not remove the entries of the others.
    own = ",".join(sorted(settings.projects))
    declared.sources = [DECLARED + project for project in (*settings.projects, own)] if own else [f"{DECLARED}*"]
    for task in registry:
        if task.options.cron is not None:
            try:
                call = make_call(task, (), {}, {}, settings)
                timetable = Cron(task.options.cron, task.options.timezone)
                grace = check_misfire_grace(task.options.misfire_grace)
                declarations.append(CronDeclaration(call, timetable, task.name, grace))
            except (ValueError, RqstackError) as error:
                declared.problems.append(f"{task.name}: cron={task.options.cron!r}: {error}")
    for declaration in declarations:
        project = found.modules.get(declaration.call.path.rpartition(".")[0]) or own
        _add(declared, declaration, DECLARED + project, connection, settings)
    return declared


def _add(
    declared: CronDeclarations, declaration: CronDeclaration, source: str, connection: Redis, settings: Settings
) -> None:
    try:
        entry = make_entry(
            declaration.call,
            declaration.timetable,
            source=source,
            name=declaration.name,
            misfire_grace=declaration.misfire_grace,
            connection=connection,
            settings=settings,
        )
    except (ValueError, RqstackError) as error:
        declared.problems.append(str(error))
        return
    same = next((other for other in declared.entries if other.id == entry.id), None)
    if same is None:
        declared.entries.append(entry)
    elif same.version != entry.version:
        declared.problems.append(f"two cron entries are named {entry.name!r}. Give one of them another name=…")
