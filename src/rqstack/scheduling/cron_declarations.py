"""The declared cron table: `@task(cron=…)`, and `schedule(…)` in the `cron.py` of a project."""

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
from rqstack.scheduling.entries import DECLARED, Entry, check_grace
from rqstack.scheduling.jobs import Function, ScheduledCall, make_call, make_entry

if TYPE_CHECKING:
    from redis import Redis

    from rqstack.settings import Settings


@dataclass(frozen=True)
class CronDeclaration:
    """A line of the declared table, as code gave it."""

    call: ScheduledCall
    timetable: Timetable
    name: str | None
    misfire_grace: int


@dataclass
class CronDeclarations:
    """What the task code declares, and what could not be used.

    Args:
        entries: The lines.
        sources: Whose lines these are, as `CronTable.sync` takes it.
        problems: One sentence for each module that did not import and each line that is wrong.
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
    """Declare a line of the cron table, in the `cron.py` of a project. Elsewhere it is checked, and does nothing.

    Args:
        function: The task.
        cron: A cron expression: five fields, six with seconds last, or an alias such as `@daily`.
        every: Instead of `cron`: an interval in seconds or as a timedelta.
        args: Positional arguments of the task.
        kwargs: Named arguments of the task.
        name: What people see. Needed where two lines of a task have the same times and arguments, and where the
            arguments are more than JSON can say. With a name, other times and arguments are the same line, changed.
        timezone: The time zone of `cron`.
        misfire_grace: Seconds by which a missed firing may still run. Default: an hour.
        options: Options of `@task` for its jobs, such as `queue` and `retries`.

    Raises:
        ValueError: The times or an option are wrong; the message names them.
        InvalidJob: It is no task, or the arguments do not fit it.
    """
    call = make_call(function, args, kwargs, options)
    declare(call, make_timetable(cron, every, timezone), name, misfire_grace)


def make_timetable(cron: str | None, every: float | timedelta | None, timezone: str) -> Timetable:
    """Times from what a person gave.

    Raises:
        ValueError: Neither or both of `cron` and `every` are given, or one is wrong.
    """
    if (cron is None) == (every is None):
        raise ValueError("give either cron= or every=.")
    return Interval(every) if every is not None else Cron(cron or "", timezone)


def declare(call: ScheduledCall, timetable: Timetable, name: str | None, misfire_grace: float | None) -> bool:
    """Add a line while the table is being collected. Returns whether it is.

    Raises:
        ValueError: misfire_grace is out of its range.
    """
    grace = check_grace(misfire_grace)
    lines = _collecting.get()
    if lines is None:
        return False
    lines.append(CronDeclaration(call, timetable, name, grace))
    return True


@contextlib.contextmanager
def collecting() -> Iterator[list[CronDeclaration]]:
    """While inside, `schedule` and `job_scheduler(cron=…)` add to the list that this gives."""
    lines: list[CronDeclaration] = []
    token = _collecting.set(lines)
    try:
        yield lines
    finally:
        _collecting.reset(token)


def load(connection: Redis, settings: Settings) -> CronDeclarations:
    """Import all task code and collect the table. For a process of its own: what is imported stays.

    Args:
        connection: Redis.
        settings: Where the task code is.
    """
    from rqstack.registry.discovery import CRON, MODULES, autodiscover, discover_packages
    from rqstack.registry.preload import preload

    with collecting() as lines:
        settings = preload(settings)
        found = autodiscover(settings, modules=(*MODULES, CRON))
        # Tasks of no project (RQSTACK_MODULES, Django's apps) may have a `cron.py` beside them too.
        modules = {task.func.__module__ for task in registry} - {name for name, of in found.modules.items() if of}
        packages = sorted({module.rpartition(".")[0] for module in modules} - {"", "rqstack"})
        others = discover_packages(packages, (CRON,))
    declared = CronDeclarations(problems=[str(failure) for failure in (*found.failures, *others.failures)])
    # A scheduler of some projects answers for their lines alone: another one has those of the others.
    own = ",".join(sorted(settings.projects))
    declared.sources = [DECLARED + project for project in (*settings.projects, own)] if own else [f"{DECLARED}*"]
    for task in registry:
        if task.options.cron is not None:
            try:
                call = make_call(task, (), {}, {}, settings)
                timetable = Cron(task.options.cron, task.options.timezone)
                lines.append(CronDeclaration(call, timetable, task.name, check_grace(task.options.misfire_grace)))
            except (ValueError, RqstackError) as error:
                declared.problems.append(f"{task.name}: cron={task.options.cron!r}: {error}")
    for line in lines:
        project = found.modules.get(line.call.path.rpartition(".")[0]) or own
        _add(declared, line, DECLARED + project, connection, settings)
    return declared


def _add(declared: CronDeclarations, line: CronDeclaration, source: str, connection: Redis, settings: Settings) -> None:
    try:
        entry = make_entry(
            line.call,
            line.timetable,
            source=source,
            name=line.name,
            misfire_grace=line.misfire_grace,
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
        declared.problems.append(f"two lines of the cron table are named {entry.name!r}. Give one another name=…")
