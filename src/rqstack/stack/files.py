"""Writes files: atomically, in place where a container has them mounted, or under a lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rqstack.errors import SettingsError
from rqstack.processes.private_files import open_private


def write_atomically(path: Path, text: str, mode: int) -> None:
    """Replace a file if its text or mode differs. Readers see the old file or the new one.

    Args:
        path: Its folder must exist.
        mode: Permissions of the file.

    Raises:
        SettingsError: The file cannot be written.
    """
    if _is_unchanged(path, text, mode):
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    create(temporary, text, mode)
    temporary.replace(path)


def write_in_place(path: Path, text: str, mode: int) -> None:
    """Write a file that a container may have mounted: replacing it would leave the container with the old one.

    Args:
        path: Its folder must exist, and belong to this user alone.
        mode: Permissions of the file.

    Raises:
        SettingsError: The file cannot be written.
    """
    if _is_unchanged(path, text, mode):
        return
    try:
        with contextlib.suppress(FileNotFoundError):
            path.chmod(0o600)  # it may be read-only for its owner, too
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            data = text.encode()
            # In one piece, and cut only afterwards: who reads meanwhile finds no half of a secret.
            os.pwrite(file, data, 0)
            os.ftruncate(file, len(data))
            os.fchmod(file, mode)
        finally:
            os.close(file)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}.") from error


def create(path: Path, text: str, mode: int = 0o600) -> None:
    """Create a file that does not exist yet.

    Raises:
        SettingsError: The file exists or cannot be written.
    """
    try:
        # Created without access for others; `mode` applies only after the text, which may be secret, is complete.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}.") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep out other processes that lock the same file.

    Args:
        path: The lock file; its folder must exist. It stays empty.
    """
    with open(path, "w", opener=open_private) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_unchanged(path: Path, text: str, mode: int) -> bool:
    try:
        return path.read_text() == text and path.stat().st_mode & 0o777 == mode
    except OSError:
        return False
