"""Releases of task code: each in a folder of its own, and a link `current` that is switched in one step.

<root>/releases/<id>/<project>/…     a release is never changed once it is there
<root>/current -> releases/<id>      what workers read; they see the switch and fork fresh horses
<root>/installed                     the content that was installed last, even if it was rolled back since
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from rqstack.errors import RqstackError

CURRENT = "current"
IMPORT_TIMEOUT = 120
"""Seconds that the modules of one project may take to import."""


class ReleaseRefused(RqstackError):
    """A release is not taken: it does not import. The message names it, the project and the reason."""


class NoRelease(RqstackError):
    """There is no release to go to."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release that is installed.

    Args:
        id: The time of its installation (UTC) and the start of its content's digest.
        path: Its folder.
        current: Whether workers use it.
        projects: The names of its projects.
    """

    id: str
    path: Path
    current: bool
    projects: tuple[str, ...]


class Releases:
    """The releases in one folder.

    Args:
        root: The folder; in the containers `/tasks`.
        keep: How many releases are kept, the current one included.
    """

    def __init__(self, root: Path, keep: int = 5) -> None:
        self.root = root
        self.keep = keep
        self.folder = root / "releases"

    def all(self) -> list[Release]:
        """Every release, the oldest first."""
        current = self._current_id()
        if not self.folder.is_dir():
            return []
        paths = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        return [Release(path.name, path, path.name == current, _projects(path)) for path in paths]

    def current(self) -> Release | None:
        """The release that workers use, if there is one."""
        return next((release for release in self.all() if release.current), None)

    def install(self, source: Path, *, again: bool = False) -> tuple[Release, bool]:
        """Copy packages beside the releases, try to import them, and switch to them.

        Args:
            source: A folder with one folder a project, as `rqstack tasks build` makes it.
            again: Install also what was installed last. Without it, that changes nothing: a start of the stack
                neither makes a release anew nor undoes a rollback.

        Returns:
            The current release, and whether it is new.

        Raises:
            ReleaseRefused: A project does not import. What was current stays so.
            NoRelease: The source holds no project.
        """
        if not _projects(source):
            raise NoRelease(f"{source} holds no task project. Put one into tasks/ and build again.")
        with self._alone():
            content = digest(source)
            now = self.current()
            if now is not None and not again and self._installed() == content:
                return now, False
            if now is not None and now.id.endswith(content[:10]):
                self._note_installed(content)
                return now, False
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3] + f"-{content[:10]}"
            beside = self.folder / f".{name}"
            try:
                shutil.copytree(source, beside, symlinks=True)
                refuse_broken(beside, name)
                os.sync()
                beside.replace(self.folder / name)
            except OSError as error:
                raise ReleaseRefused(f"The release {name} cannot be written to {self.folder}: {error}.") from error
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            self._switch(name)
            self._note_installed(content)
            self._prune()
            installed = self.current()
            assert installed is not None
            return installed, True

    def rollback(self, to: str | None = None) -> Release:
        """Switch to an older release.

        Args:
            to: The id of a release, or its start. Default: the one before the current.

        Returns:
            The release that is current now.

        Raises:
            NoRelease: There is no such release.
        """
        with self._alone():
            releases = self.all()
            ids = [release.id for release in releases]
            if to is not None:
                found = [release for release in releases if release.id.startswith(to)]
                if len(found) != 1:
                    raise NoRelease(f"No single release is named {to!r}. There are: {', '.join(ids) or 'none'}.")
                target = found[0]
            else:
                older = [release for release in releases if release.id < (self._current_id() or "")]
                if not older:
                    raise NoRelease(
                        f"There is no release before the current one. There are: {', '.join(ids) or 'none'}."
                    )
                target = older[-1]
            self._switch(target.id)
            return Release(target.id, target.path, True, target.projects)

    def _current_id(self) -> str | None:
        try:
            return (self.root / CURRENT).readlink().name
        except OSError:
            return None

    def _switch(self, name: str) -> None:
        beside = self.root / f".{CURRENT}"
        beside.unlink(missing_ok=True)
        beside.symlink_to(Path("releases") / name)
        beside.replace(self.root / CURRENT)

    def _installed(self) -> str | None:
        path = self.root / "installed"
        return path.read_text().strip() if path.is_file() else None

    def _note_installed(self, content: str) -> None:
        beside = self.root / ".installed"
        beside.write_text(f"{content}\n")
        beside.replace(self.root / "installed")

    def _prune(self) -> None:
        others = [release for release in self.all() if not release.current]
        for release in others[: max(0, len(others) - (self.keep - 1))]:
            shutil.rmtree(release.path, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two installations at once would prune each other's folders."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        except OSError as error:
            raise NoRelease(f"Cannot write to {self.root}: {error.strerror}.") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # What an installation left that was killed.
            for path in self.folder.glob(".*"):
                shutil.rmtree(path, ignore_errors=True)
            yield


def digest(folder: Path) -> str:
    """What a folder holds, as SHA-256: names and contents, neither times nor compiled files.

    Args:
        folder: Is read whole.
    """
    whole = sha256()
    for path in sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts and not path.is_dir()):
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        whole.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()


def refuse_broken(release: Path, name: str) -> None:
    """Import every project of a release, each in a process of its own, as a worker of that project would.

    Args:
        release: Its folder.
        name: Its id, for the message.

    Raises:
        ReleaseRefused: A project does not import.
    """
    problems = []
    for project in _projects(release):
        environment = os.environ | {"RQSTACK_TASKS_PATH": str(release), "RQSTACK_PROJECTS": project}
        command = [sys.executable, "-m", "rqstack.stack.import_check"]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=IMPORT_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            problems.append(f"{project}: its import did not end within {IMPORT_TIMEOUT} s")
            continue
        if done.returncode:
            said = done.stdout.strip() or done.stderr.strip() or f"the import ended with code {done.returncode}"
            problems.append(f"{project}: {said.splitlines()[-1].replace(str(release) + os.sep, '')}")
    if problems:
        raise ReleaseRefused(f"The release {name} is refused; the running one stays. {'; '.join(problems)}")


def _projects(release: Path) -> tuple[str, ...]:
    if not release.is_dir():
        return ()
    return tuple(sorted(path.name for path in release.iterdir() if path.is_dir() and not path.name.startswith(".")))
