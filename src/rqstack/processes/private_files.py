"""Files and folders for this user alone, that another user of the machine can neither read nor plant."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from rqstack.errors import RqstackError
from rqstack.settings import ownership

UMASK = 0o077
"""For processes that write files of rqstack, and run no tasks."""


def private_folder(path: Path) -> Path:
    """Make a folder that no other user may enter; one that exists loses such rights.

    Raises:
        RqstackError: It cannot be made, or belongs to another user.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.fstat(file)
            if status.st_uid == os.geteuid() and status.st_mode & UMASK:
                os.fchmod(file, status.st_mode & 0o700)
                status = os.fstat(file)
        finally:
            os.close(file)
    except OSError as error:
        raise RqstackError(f"{path}: {error.strerror}. Check its owner and permissions.") from error
    if problem := ownership.problem(status):
        raise RqstackError(f"{path}: {problem}. Remove it, or run this as its owner.")
    return path


def open_private(path: Path | str, flags: int) -> int:
    """Open a file for this user alone; it is created with such rights. Usable as `opener` of `open`.

    Args:
        flags: Of `os.open`; the file is not followed if it is a symbolic link.

    Returns:
        The file descriptor.

    Raises:
        OSError: It cannot be opened; the text says so if it is a link, or belongs to another user.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from None
        raise
    status = os.fstat(file)
    problem = ownership.problem(status)
    if not problem and stat.S_ISREG(status.st_mode):
        # Otherwise another user who may read it could lock it.
        if status.st_uid == os.geteuid() and status.st_mode & UMASK:
            os.fchmod(file, stat.S_IMODE(status.st_mode) & ~UMASK)
        return file
    os.close(file)
    raise OSError(errno.EPERM, problem or "it is not a regular file", str(path))
