"""Builds the packages of task projects: each project with its own dependencies, in a folder of its own.

Runs while the shared package image is built (`rqstack tasks build`), and needs pip and a package index.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from rqstack.errors import RqstackError
from rqstack.registry.discovery import CRON, LISTED, MODULES

Say = Callable[[str], None]
OUTSIDE = ".outside"
NOT_COPIED = (".git", ".venv*", ".env*", ".tox", ".nox", "__pycache__", "node_modules", "var")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class BundleFailed(RqstackError):
    """A project cannot be built; the message names it and why."""


def build(sources: Iterable[Path], target: Path, say: Say) -> list[str]:
    """Build every project of some folders.

    Args:
        sources: Folders of projects. A project is a folder with a pyproject.toml, or, in the sub-folder `.outside`
            (see `stage`), also a wheel.
        target: Where each project gets its folder. Made if it is not there.
        say: Told what is built.

    Returns:
        The names of the projects.

    Raises:
        BundleFailed: A project has no name, shares it with another, or pip cannot build it.
    """
    target.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    for project in (project for source in sources for project in _projects(source)):
        name = project_name(project)
        if name in found:
            raise BundleFailed(f"{project}: the project {name} is also in {found[name]}. Give one another name.")
        found[name] = project
        say(f"Building the project {name}.")
        build_project(project, target / name)
    return list(found)


def _projects(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        raise BundleFailed(f"{source}: there is no such folder of task projects.")
    for path in sorted(source.iterdir()):
        if path.name == OUTSIDE:
            yield from sorted(path.iterdir())
        elif path.is_dir() and not path.name.startswith((".", "_")):
            if not (path / "pyproject.toml").is_file():
                raise BundleFailed(f"{path}: the project has no pyproject.toml. Write one, or move the folder away.")
            yield path


def stage(projects: Iterable[Path], tasks: Path) -> None:
    """Copy projects from elsewhere to where the image is built from; what was copied before and is not named goes.

    Args:
        projects: Project folders, or wheels.
        tasks: The folder of task projects; they go to its sub-folder `.outside`.

    Raises:
        BundleFailed: One is neither a wheel nor a folder with a pyproject.toml.
    """
    into = tasks / OUTSIDE
    shutil.rmtree(into, ignore_errors=True)
    for project in projects:
        place = into / project.name
        into.mkdir(exist_ok=True)
        if project.suffix == ".whl" and project.is_file():
            shutil.copy2(project, place)
        elif (project / "pyproject.toml").is_file():
            shutil.copytree(project, place, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
        else:
            raise BundleFailed(f"TASKS_OUTSIDE: {project} is neither a wheel nor a folder with a pyproject.toml.")


def project_name(project: Path) -> str:
    """The name of a project: its folder's, or where it comes from outside, its pyproject.toml's or its wheel's.

    Args:
        project: A folder with a pyproject.toml, or a wheel.

    Raises:
        BundleFailed: The pyproject.toml has no usable name.
    """
    if project.suffix == ".whl":
        return project.name.partition("-")[0]
    about = project / "pyproject.toml"
    try:
        name = tomllib.loads(about.read_text()).get("project", {}).get("name", "")
    except tomllib.TOMLDecodeError as error:
        raise BundleFailed(f"{about}: not valid TOML: {error}.") from None
    except OSError as error:
        raise BundleFailed(f"{about}: {error.strerror}.") from None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BundleFailed(f"{about}: [project] has no usable name.")
    return name if project.parent.name == OUTSIDE else project.name


def build_project(project: Path, target: Path) -> None:
    """Install a project and its dependencies into one folder, and list its task modules.

    Args:
        project: Its folder, or its wheel. A requirements.txt in the folder says which versions; with hashes, only
            those are taken.
        target: The folder; it must not exist.

    Raises:
        BundleFailed: pip cannot build it, or it holds no task module.
    """
    # pip runs in the project's folder, where a relative path would mean another place.
    project, target = project.absolute(), target.absolute()
    folder = project if project.is_dir() else project.parent
    name = target.name
    into = ["--target", str(target)]
    with tempfile.TemporaryDirectory(prefix="rqstack-wheel-") as wheels:
        _pip(["wheel", "--no-deps", "--wheel-dir", wheels, "." if project.is_dir() else str(project)], folder, name)
        wheel = next(Path(wheels).glob("*.whl"))
        modules = list_modules(folder, wheel)
        if not modules:
            wanted = " or ".join(f"{name}.py" for name in MODULES)
            raise BundleFailed(f"{name}: its package has no {wanted}, and there is no {LISTED} that names others.")
        locked = folder / "requirements.txt"
        if locked.is_file():
            hashes = ["--require-hashes"] if "--hash=" in locked.read_text() else []
            _pip(["install", *hashes, "--requirement", "requirements.txt", *into], folder, name)
            _pip(["install", "--no-deps", *into, str(wheel)], folder, name)
        else:
            _pip(["install", *into, str(wheel)], folder, name)
    (target / LISTED).write_text("".join(f"{name}\n" for name in modules))


def list_modules(folder: Path, wheel: Path) -> list[str]:
    """The task modules of a project: those that its `rqstack-modules.txt` names, else those of its own packages.

    Args:
        folder: The project.
        wheel: What was built from it.
    """
    listed = folder / LISTED
    if listed.is_file():
        lines = (line.partition("#")[0].strip() for line in listed.read_text().splitlines())
        return [line for line in lines if line]
    with ZipFile(wheel) as archive:
        files = [PurePosixPath(name) for name in archive.namelist()]
    wanted = (*MODULES, CRON)
    found = sorted(path.with_suffix("").parts for path in files if path.suffix == ".py" and path.stem in wanted)
    return [".".join(names) for names in found if all(name.isidentifier() for name in names)]


def _pip(arguments: list[str], folder: Path, name: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise BundleFailed(f"{name}: pip cannot build it: {said}")
