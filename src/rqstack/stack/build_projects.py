"""Builds task projects: installs each with its dependencies into a separate folder.

Runs during the build of the shared package image (`rqstack tasks build`). Needs pip and a package index.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from rqstack.errors import RqstackError
from rqstack.registry.discovery import CRON, LISTED, MODULES, OUTSIDE
from rqstack.stack.reporting import Report

EXCLUDED = (".git", ".venv*", ".env*", ".tox", ".nox", "__pycache__", "node_modules", "var")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class BuildFailed(RqstackError):
    """A project cannot be built. The message has its name and the reason."""


def build(sources: Iterable[Path], target: Path, report: Report) -> list[str]:
    """Build all projects of some folders. Returns their names.

    Args:
        sources: Folders of projects. A project is a folder with a pyproject.toml, or, in the sub-folder `.outside`
            (see `copy_outside_projects`), also a wheel.
        target: Each project is installed into a sub-folder. Created if needed.

    Raises:
        BuildFailed: A project has no name, two have the same name, or pip cannot build one.
    """
    target.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    for project in (project for source in sources for project in _projects(source)):
        name = project_name(project)
        if name in found:
            raise BuildFailed(f"{project}: {found[name]} has the same project name {name}. Rename one of them.")
        found[name] = project
        report(f"Building the project {name}.")
        build_project(project, target / name)
    return list(found)


def _projects(source: Path) -> Iterator[Path]:
    if not source.is_dir():
        raise BuildFailed(f"{source}: no such folder of task projects.")
    for path in sorted(source.iterdir()):
        if path.name == OUTSIDE:
            yield from sorted(path.iterdir())
        elif path.is_dir() and not path.name.startswith((".", "_")):
            if not (path / "pyproject.toml").is_file():
                raise BuildFailed(f"{path}: the project has no pyproject.toml. Add one, or move the folder elsewhere.")
            yield path


def copy_outside_projects(projects: Iterable[Path], tasks: Path) -> None:
    """Copy projects from elsewhere into the build context of the image. Earlier copies are removed.

    Args:
        projects: Project folders or wheels.
        tasks: The folder of task projects. The copies go to its sub-folder `.outside`.

    Raises:
        BuildFailed: One is neither a wheel nor a folder with a pyproject.toml.
    """
    folder = tasks / OUTSIDE
    shutil.rmtree(folder, ignore_errors=True)
    for project in projects:
        copy = folder / project.name
        folder.mkdir(exist_ok=True)
        if project.suffix == ".whl" and project.is_file():
            shutil.copy2(project, copy)
        elif (project / "pyproject.toml").is_file():
            shutil.copytree(project, copy, symlinks=True, ignore=_excluded)
        else:
            raise BuildFailed(f"TASKS_OUTSIDE: {project} is neither a wheel nor a folder with a pyproject.toml.")


def _excluded(folder: str, names: list[str]) -> set[str]:
    """What is left out of a copy: virtual environments too, whatever they are called."""
    environments = {name for name in names if Path(folder, name, "pyvenv.cfg").is_file()}
    return environments | shutil.ignore_patterns(*EXCLUDED)(folder, names)


def project_name(project: Path) -> str:
    """The name of a project: that of its folder, or for one from outside that of its pyproject.toml or wheel.

    Args:
        project: A folder with a pyproject.toml, or a wheel.

    Raises:
        BuildFailed: The pyproject.toml has no valid name.
    """
    if project.suffix == ".whl":
        return project.name.partition("-")[0]
    pyproject = project / "pyproject.toml"
    try:
        name = tomllib.loads(pyproject.read_text()).get("project", {}).get("name", "")
    except tomllib.TOMLDecodeError as error:
        raise BuildFailed(f"{pyproject}: not valid TOML: {error}.") from None
    except OSError as error:
        raise BuildFailed(f"{pyproject}: {error.strerror}.") from None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BuildFailed(f"{pyproject}: [project] has no valid name.")
    return name if project.parent.name == OUTSIDE else project.name


def build_project(project: Path, target: Path) -> None:
    """Install a project and its dependencies into one folder, and write the list of its task modules.

    Args:
        project: A folder or a wheel. A requirements.txt in the folder pins the versions; if it has hashes, they are
            required.
        target: Must not exist.

    Raises:
        BuildFailed: pip cannot build it, or it has no task module.
    """
    # pip runs in the project's folder, where a relative path would mean another place.
    project, target = project.absolute(), target.absolute()
    folder = project if project.is_dir() else project.parent
    name = target.name
    target_option = ["--target", str(target)]
    with tempfile.TemporaryDirectory(prefix="rqstack-wheel-") as wheels:
        _pip(["wheel", "--no-deps", "--wheel-dir", wheels, "." if project.is_dir() else str(project)], folder, name)
        wheel = next(Path(wheels).glob("*.whl"))
        modules = list_modules(folder, wheel)
        if not modules:
            wanted = " or ".join(f"{name}.py" for name in MODULES)
            raise BuildFailed(f"{name}: its package has no {wanted}, and no {LISTED} names other modules.")
        locked = folder / "requirements.txt"
        if locked.is_file():
            hashes = ["--require-hashes"] if "--hash=" in locked.read_text() else []
            _pip(["install", *hashes, "--requirement", "requirements.txt", *target_option], folder, name)
            _pip(["install", "--no-deps", *target_option, str(wheel)], folder, name)
        else:
            _pip(["install", *target_option, str(wheel)], folder, name)
    (target / LISTED).write_text("".join(f"{name}\n" for name in modules))


def list_modules(folder: Path, wheel: Path) -> list[str]:
    """The task modules of a project: those in its `rqstack-modules.txt`, else those found in its wheel."""
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
        output = " ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise BuildFailed(f"{name}: pip cannot build it: {output}")
