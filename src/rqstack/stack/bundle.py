"""Builds the packages of task projects: each project with its own dependencies, in a folder of its own.

Runs while the shared package image is built (`rqstack tasks build`), and needs pip and a package index.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from rqstack.discovery import LISTED, MODULES
from rqstack.errors import RqstackError

Say = Callable[[str], None]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class BundleFailed(RqstackError):
    """A project cannot be built; the message names it and why."""


def build(sources: Iterable[Path], target: Path, say: Say) -> list[str]:
    """Build every project of some folders.

    Args:
        sources: Folders of projects; a folder that has a pyproject.toml is itself a project.
        target: Where each project gets its folder. Made if it is not there.
        say: Told what is built.

    Returns:
        The names of the projects.

    Raises:
        BundleFailed: A project has no name, shares it with another, or pip cannot build it.
    """
    target.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    for folder in (project for source in sources for project in _projects(source)):
        name = project_name(folder)
        if name in found:
            raise BundleFailed(f"{folder}: the project {name} is also in {found[name]}. Give one another name.")
        found[name] = folder
        say(f"Building the project {name}.")
        build_project(folder, target / name)
    return list(found)


def _projects(source: Path) -> list[Path]:
    if (source / "pyproject.toml").is_file():
        return [source]
    if not source.is_dir():
        raise BundleFailed(f"{source}: there is no such folder of task projects.")
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith((".", "_"))]
    for folder in folders:
        if not (folder / "pyproject.toml").is_file():
            raise BundleFailed(f"{folder}: the project has no pyproject.toml. Write one, or move the folder elsewhere.")
    return folders


def project_name(folder: Path) -> str:
    """The name of a project: that of its folder, or of its pyproject.toml where the folder is not one of `tasks/`.

    Args:
        folder: Has a pyproject.toml.

    Raises:
        BundleFailed: The pyproject.toml has no usable name.
    """
    about = folder / "pyproject.toml"
    try:
        name = tomllib.loads(about.read_text()).get("project", {}).get("name", "")
    except tomllib.TOMLDecodeError as error:
        raise BundleFailed(f"{about}: not valid TOML: {error}.") from None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BundleFailed(f"{about}: [project] has no usable name.")
    return folder.name if folder.parent.name == "tasks" else name


def build_project(folder: Path, target: Path) -> None:
    """Install a project and its dependencies into one folder, and list its task modules.

    Args:
        folder: The project. A requirements.txt in it says which versions; with hashes, only those are taken.
        target: The folder; it must not exist.

    Raises:
        BundleFailed: pip cannot build it, or it holds no task module.
    """
    wheels = target.with_name(f".{target.name}.wheel")
    shutil.rmtree(wheels, ignore_errors=True)
    _pip(["wheel", "--no-deps", "--wheel-dir", str(wheels), "."], folder)
    wheel = next(wheels.glob("*.whl"))
    modules = list_modules(folder, wheel)
    if not modules:
        wanted = " or ".join(f"{name}.py" for name in MODULES)
        raise BundleFailed(f"{folder.name}: its package has no {wanted}, and there is no {LISTED} that names others.")
    into = ["--target", str(target)]
    locked = folder / "requirements.txt"
    if locked.is_file():
        hashes = ["--require-hashes"] if "--hash=" in locked.read_text() else []
        _pip(["install", *hashes, "--requirement", "requirements.txt", *into], folder)
        _pip(["install", "--no-deps", *into, str(wheel)], folder)
    else:
        _pip(["install", *into, str(wheel)], folder)
    shutil.rmtree(wheels)
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
    found = sorted(path.with_suffix("").parts for path in files if path.suffix == ".py" and path.stem in MODULES)
    return [".".join(names) for names in found if all(name.isidentifier() for name in names)]


def _pip(arguments: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise BundleFailed(f"{folder.name}: pip cannot build it: {said}")
