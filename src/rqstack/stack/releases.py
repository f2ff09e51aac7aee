"""Releases of task code: one immutable folder per release, and a symbolic link `current` that is switched atomically.

<root>/releases/<id>/<project>/…     the releases
<root>/current -> releases/<id>      what workers use; they notice the switch and replace their horses
<root>/installed                     digest of the content installed last, even if it was rolled back since
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
from rqstack.stack.files import write_atomically

CURRENT = "current"
IMPORT_TIMEOUT = 120
"""Seconds that the import of one project may take."""


class ReleaseRefused(RqstackError):
    """A release cannot be imported. The message has the release, the project and the reason."""


class NoRelease(RqstackError):
    """There is no such release, or nothing to install."""


@dataclass(frozen=True, slots=True)
class Release:
    """An installed release.

    Args:
        id: The time of its installation (UTC) and a prefix of its content's digest.
        current: Whether workers use it.
        projects: The names of its projects.
    """

    id: str
    path: Path
    current: bool
    projects: tuple[str, ...]


class Releases:
    """The releases in a folder.

    Args:
        root: `/tasks` in the containers.
        keep: Number of releases to keep, including the current one.
    """

    def __init__(self, root: Path, keep: int = 5) -> None:
        self.root = root
        self.keep = keep
        self.folder = root / "releases"

    def all(self) -> list[Release]:
        """All releases, the oldest first."""
        current = self._current_id()
        if not self.folder.is_dir():
            return []
        paths = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        return [Release(path.name, path, path.name == current, _projects(path)) for path in paths]

    def current(self) -> Release | None:
        """The release that workers use; None if there is none."""
        return next((release for release in self.all() if release.current), None)

    def install(self, source: Path, *, again: bool = False) -> tuple[Release, bool]:
        """Copy packages, check that they can be imported, and switch to them.

        Args:
            source: One folder per project, as `rqstack tasks build` makes it.
            again: Also install the content that was installed last. Otherwise that does nothing, so that a start of the
                stack neither creates a duplicate release nor undoes a rollback.

        Returns:
            The current release, and whether it is new.

        Raises:
            ReleaseRefused: A project cannot be imported. The current release stays.
            NoRelease: The source has no project.
        """
        if not _projects(source):
            raise NoRelease(f"{source} contains no task project. Add one to tasks/ and build again.")
        with self._lock():
            content = digest(source)
            current = self.current()
            if current is not None and not again and self._last_installed() == content:
                return current, False
            if current is not None and current.id.endswith(content[:10]):
                self._record_installed(content)
                return current, False
            name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3] + f"-{content[:10]}"
            temporary = self.folder / f".{name}"
            try:
                shutil.copytree(source, temporary, symlinks=True)
                check_imports(temporary, name)
                os.sync()
                temporary.replace(self.folder / name)
            except OSError as error:
                raise ReleaseRefused(f"The release {name} cannot be written to {self.folder}: {error}.") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            self._switch(name)
            self._record_installed(content)
            self._prune()
            installed = self.current()
            assert installed is not None
            return installed, True

    def rollback(self, to: str | None = None) -> Release:
        """Switch to an older release. Returns it.

        Args:
            to: The id of a release, or a unique prefix of it. Default: the release before the current one.

        Raises:
            NoRelease: There is no such release.
        """
        with self._lock():
            releases = self.all()
            ids = [release.id for release in releases]
            if to is not None:
                matches = [release for release in releases if release.id.startswith(to)]
                if len(matches) != 1:
                    raise NoRelease(f"No single release matches {to!r}. Known are: {', '.join(ids) or 'none'}.")
                target = matches[0]
            else:
                older = [release for release in releases if release.id < (self._current_id() or "")]
                if not older:
                    raise NoRelease(
                        f"There is no release before the current one. Known are: {', '.join(ids) or 'none'}."
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
        temporary = self.root / f".{CURRENT}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("releases") / name)
        temporary.replace(self.root / CURRENT)

    def _last_installed(self) -> str | None:
        path = self.root / "installed"
        return path.read_text().strip() if path.is_file() else None

    def _record_installed(self, content: str) -> None:
        write_atomically(self.root / "installed", f"{content}\n", 0o644)

    def _prune(self) -> None:
        others = [release for release in self.all() if not release.current]
        for release in others[: max(0, len(others) - (self.keep - 1))]:
            shutil.rmtree(release.path, ignore_errors=True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Exclude other installations, which would prune each other's folders."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        except OSError as error:
            raise NoRelease(f"Cannot write to {self.root}: {error.strerror}.") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Left by an installation that was killed.
            for path in self.folder.glob(".*"):
                shutil.rmtree(path, ignore_errors=True)
            yield


def digest(folder: Path) -> str:
    """The SHA-256 of the names and contents of a folder's files, without compiled files and times."""
    hasher = sha256()
    for path in sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts and not path.is_dir()):
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        hasher.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode())
        hasher.update(content)
    return hasher.hexdigest()


def check_imports(release: Path, name: str) -> None:
    """Import each project of a release in a subprocess, as a worker of that project would.

    Args:
        release: Its folder.
        name: Its id, for the message.

    Raises:
        ReleaseRefused: A project cannot be imported.
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
            problems.append(f"{project}: its import takes over {IMPORT_TIMEOUT} s")
            continue
        if done.returncode:
            output = done.stdout.strip() or done.stderr.strip() or f"the import exited with code {done.returncode}"
            problems.append(f"{project}: {output.splitlines()[-1].replace(str(release) + os.sep, '')}")
    if problems:
        raise ReleaseRefused(f"The release {name} is refused; the running one stays. {'; '.join(problems)}")


def _projects(release: Path) -> tuple[str, ...]:
    if not release.is_dir():
        return ()
    return tuple(sorted(path.name for path in release.iterdir() if path.is_dir() and not path.name.startswith(".")))
