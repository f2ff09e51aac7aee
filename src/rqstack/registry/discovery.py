"""Finds the user's tasks: imports the modules that declare them, and reports each that fails."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rqstack.errors import TaskImportError, UnknownTask
from rqstack.registry.registry import registry
from rqstack.settings import Settings, get_settings
from rqstack.settings.paths import home

if TYPE_CHECKING:
    from rq.job import Job

log = logging.getLogger("rqstack.discovery")

MODULES = ("tasks", "commands")
"""Names of the modules that are looked for in every project and package."""

CRON = "cron"
"""Name of the modules that hold a project's cron table. The scheduler imports them, workers and producers do not."""

OUTSIDE = ".outside"
"""Sub-folder of the task projects for copies of projects from elsewhere."""

BUILT_IN = ("rqstack.smoke",)
LISTED = "rqstack-modules.txt"
_OWN = str(Path(__file__).parents[1]) + os.sep
_SKIPPED = {"build", "dist", "docs", "node_modules", "test", "tests"}


@dataclass(frozen=True, slots=True)
class Failure:
    """A project or module that could not be used.

    Args:
        name: The module, or the project's folder.
        reason: Why, in one sentence.
        details: The traceback, or "".
    """

    name: str
    reason: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(slots=True)
class Found:
    """The result of a discovery.

    Args:
        modules: Imported modules, with the project (or "") of each.
        failures: What could not be used. The others were used.
    """

    modules: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def check(self) -> None:
        """Raise what failed.

        Raises:
            TaskImportError: Something failed; the message has one line for each.
        """
        if self.failures:
            raise TaskImportError("\n".join(str(failure) for failure in self.failures))


def autodiscover(
    settings: Settings | None = None, *, modules: Iterable[str] = MODULES, packages: Iterable[str] = ()
) -> Found:
    """Import every module that declares tasks, so that they are registered. Calling it again is cheap and harmless.

    Looks in each project of `RQSTACK_TASKS_PATH` (those of `RQSTACK_PROJECTS`, if set), then in `RQSTACK_MODULES`, then
    in the packages given. A project's folder (or its `src`) is put on `sys.path`; so is `var/deps/<project>`, before
    the interpreter's own packages, if it exists. A project that has a `rqstack-modules.txt` names its modules there.

    Args:
        settings: Default: `get_settings()`.
        modules: Names of the modules to look for.
        packages: Importable packages to look in too, such as Django's installed apps.

    Returns:
        What was imported, and what failed. A failure is logged and never hides the others.
    """
    settings = settings or get_settings()
    wanted = tuple(modules)
    found = Found()
    for name in BUILT_IN:
        _import(name, "", found)
    owners: dict[str, Path] = {}
    for root, failure in _projects(settings):
        if failure:
            found.failures.append(failure)
            continue
        _extend_path(root)
        for name, file in _project_modules(root, wanted):
            if (other := owners.get(name)) is not None and other != file:
                reason = f"{other} and {file} are both the module {name}. Put them into packages of different names."
                found.failures.append(Failure(str(root), reason))
                continue
            owners[name] = file
            _import(name, root.name, found, file)
    for name in settings.modules:
        _import(name, "", found)
    _discover_packages(packages, wanted, found)
    for failure in found.failures:
        log.error("%s", failure)
    return found


def add_current_folder() -> None:
    """Let modules in the current folder be imported, as `rq worker` does.

    Not where it is the folder for temporary files, in which containers run: what a job writes there is no code of ours.
    """
    here = Path.cwd()
    if here != Path(tempfile.gettempdir()).resolve():
        _add_path(here)


def discover_packages(names: Iterable[str], modules: Iterable[str] = MODULES) -> Found:
    """Import the task modules of importable packages, where they have any.

    Args:
        names: Dotted names of packages.
        modules: Names of the modules to look for.
    """
    found = Found()
    _discover_packages(names, tuple(modules), found)
    for failure in found.failures:
        log.error("%s", failure)
    return found


def resolve(name: str, instance: Any = None, settings: Settings | None = None) -> Callable[..., Any]:
    """The function that a worker calls for a job: the allow-list, since no other name is imported.

    Args:
        name: The job's function name.
        instance: The job's object, where it was enqueued as a method of one.
        settings: Read only where no task has this name. Default: `get_settings()`.

    Raises:
        UnknownTask: No task has this name, and `RQSTACK_ALLOW_UNREGISTERED` is not set.
    """
    if instance is None:
        if (body := registry.body(name)) is not None:
            return body
    elif name == "__call__" and (body := registry.body(getattr(instance, "name", ""))) is not None:
        # RQ's own Queue.enqueue(task) stores a callable object so.
        return body
    settings = settings or get_settings()
    if not settings.allow_unregistered:
        registry.get(name)
        raise UnknownTask(f"the job calls {name!r} of an object; workers run registered tasks only.")
    if instance is not None:
        return getattr(instance, name)  # type: ignore[no-any-return]
    return _import_function(name)


def check_callback(name: str, settings: Settings | None = None) -> None:
    """Check a callback against the allow-list: it must be a function of a package that declares tasks.

    Its name is not part of the signed payload.

    Args:
        name: Its dotted name.
        settings: As `resolve`.

    Raises:
        UnknownTask: It is of another package, and `RQSTACK_ALLOW_UNREGISTERED` is not set.
    """
    if not _may_be_called_back(name) and not (settings or get_settings()).allow_unregistered:
        raise UnknownTask(
            f"the job's callback {name!r} is not a function of a package that declares tasks, or cannot be imported, "
            "so it is not called. Move it to one, such as the module of the task, or set "
            "RQSTACK_ALLOW_UNREGISTERED=1 for the worker."
        )


def check_callbacks(job: Job, settings: Settings | None = None) -> None:
    """As `check_callback`, for all callbacks of a job. Those that are refused are taken from it, so that nobody calls
    them.

    Args:
        job: RQ's object.
        settings: As `resolve`.

    Raises:
        UnknownTask: One is refused.
    """
    refused: UnknownTask | None = None
    for field_name in ("_success_callback_name", "_failure_callback_name", "_stopped_callback_name"):
        if name := getattr(job, field_name):
            try:
                check_callback(name, settings)
            except UnknownTask as error:
                setattr(job, field_name, None)
                refused = refused or error
    if refused is not None:
        raise refused


def _may_be_called_back(name: str) -> bool:
    """Whether a callback is a function of a package that declares tasks.

    Its name alone does not say so: RQ's `import_attribute` goes through attributes, and `shop.tasks.os.system` is
    `os.system` where that module imports `os`.
    """
    if registry.body(name) is not None:
        return True
    if not registry.knows_package(name):
        return False
    try:
        function = _import_function(name)
    except (Exception, SystemExit):
        log.exception("The callback %r cannot be imported", name)
        return False
    return callable(function) and registry.knows_package(str(getattr(function, "__module__", "")))


def _import_function(name: str) -> Callable[..., Any]:
    from rq.utils import import_attribute

    try:
        return import_attribute(name)
    except ValueError:
        # RQ says the same of a module that is not there and of one that breaks when it is imported.
        module = name.rpartition(".")[0]
        try:
            importlib.import_module(module)
        except ImportError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise TaskImportError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
        except ValueError:
            pass  # an empty name
        raise


def _projects(settings: Settings) -> Iterator[tuple[Path, Failure | None]]:
    """Each project's folder, or why it is none."""
    parent = home() / settings.tasks_path
    names = settings.projects
    if not names:
        if not parent.is_dir():
            return
        folders = [entry for entry in parent.iterdir() if not entry.name.startswith((".", "_"))]
        # Copies of projects from elsewhere, which the image of the tasks is built with.
        if (parent / OUTSIDE).is_dir():
            folders += (parent / OUTSIDE).iterdir()
        roots = sorted(entry for entry in folders if entry.is_dir() and any(entry.iterdir()))
    else:
        roots = [each if each.is_dir() else parent / OUTSIDE / each.name for each in (parent / name for name in names)]
    for root in roots:
        if not root.is_dir():
            root = parent / root.name
            yield root, Failure(str(root), "there is no such project. Check RQSTACK_PROJECTS and RQSTACK_TASKS_PATH.")
        elif not (root / "pyproject.toml").is_file() and not (root / LISTED).is_file():
            yield (
                root,
                Failure(str(root), "the project has no pyproject.toml. Write one, or move the folder elsewhere."),
            )
        else:
            yield root.resolve(), None


def _extend_path(root: Path) -> None:
    source = root / "src"
    _add_path(source if source.is_dir() else root)
    dependencies = home() / "var" / "deps" / root.name
    if dependencies.is_dir():
        _add_path(dependencies)


def _add_path(folder: Path) -> None:
    """Before the interpreter's installed packages, so that a project's own version of a library wins; after the
    standard library, which no project may hide."""
    text = str(folder)
    if text in sys.path:
        return
    place = next((i for i, entry in enumerate(sys.path) if "site-packages" in entry or "dist-packages" in entry), None)
    sys.path.insert(len(sys.path) if place is None else place, text)
    importlib.invalidate_caches()


def _project_modules(root: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """The names and files of a project's task modules, found without importing anything."""
    source = root / "src" if (root / "src").is_dir() else root
    listed = root / LISTED
    if listed.is_file():
        for line in listed.read_text().splitlines():
            name = line.partition("#")[0].strip()
            if name and (name.rpartition(".")[2] != CRON or CRON in wanted):
                yield name, source.joinpath(*name.split("."))
        return
    for folder, inner, files in os.walk(source):
        inner[:] = sorted(
            name
            for name in inner
            if name.isidentifier() and name not in _SKIPPED and not (Path(folder, name) / "pyvenv.cfg").exists()
        )
        package = Path(folder).relative_to(source).parts
        for name in wanted:
            if f"{name}.py" in files:
                yield ".".join((*package, name)), Path(folder, f"{name}.py")


def _discover_packages(names: Iterable[str], wanted: tuple[str, ...], found: Found) -> None:
    for package in names:
        for module in wanted:
            name = f"{package}.{module}"
            try:
                exists = name in sys.modules or importlib.util.find_spec(name) is not None
            except Exception as error:
                found.failures.append(_failure(package, error))
                break
            if exists:
                _import(name, "", found)


def _import(name: str, project: str, found: Found, file: Path | None = None) -> None:
    try:
        module = importlib.import_module(name)
    except Exception as error:
        registry.forget(name)
        found.failures.append(_failure(name, error))
        return
    except SystemExit as error:
        registry.forget(name)
        found.failures.append(Failure(name, f"it ends the process when it is imported: SystemExit({error.code!r})."))
        return
    loaded = getattr(module, "__file__", None)
    if file is not None and loaded and file.suffix == ".py" and Path(loaded).resolve() != file.resolve():
        reason = f"{file} is hidden by {loaded}, another module of this name. Put it into a package of another name."
        found.failures.append(Failure(name, reason))
        return
    found.modules[name] = project


def _failure(name: str, error: Exception) -> Failure:
    where = traceback.extract_tb(error.__traceback__)
    # A decorator of ours raises what the line of the user's file is to blame for.
    theirs = [frame for frame in where if not frame.filename.startswith((_OWN, "<frozen"))]
    last = (theirs or where)[-1:]
    place = f" ({last[0].filename}:{last[0].lineno})" if last else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({error.filename}:{error.lineno})"
    reason = f"cannot be imported: {type(error).__name__}: {error}{place}"
    return Failure(name, reason, "".join(traceback.format_exception(error)))
