"""The version of the task code on disk: it changes with a deploy, or when Git's HEAD moves."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from rqstack.processes.private_files import private_folder
from rqstack.settings.git import head_commit
from rqstack.settings.paths import home

if TYPE_CHECKING:
    from rqstack.settings import Settings

DEPLOY_MARK = Path("var") / "deployed"
"""The file that `make deploy-tasks` writes where workers use the task folder itself."""


def code_version(settings: Settings) -> str:
    """A text that changes with the version of the task code. A few file-system calls, no more.

    Args:
        settings: `tasks_path` says where the task code is.
    """
    folder = home() / settings.tasks_path
    place = os.path.realpath(folder)
    parts = (place, os.path.realpath(folder / "current"), head_commit(Path(place)), _last_deploy())
    return sha256("|".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def mark_deploy() -> None:
    """Change the version of the task code: workers and schedulers of this home load it again.

    Raises:
        OSError: The mark cannot be written.
    """
    path = home() / DEPLOY_MARK
    private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(f"{time.time_ns()}\n")
    temporary.replace(path)


def _last_deploy() -> str:
    try:
        return str((home() / DEPLOY_MARK).stat().st_mtime_ns)
    except OSError:
        return ""


def release_name(settings: Settings) -> str:
    """The name of the task code in use, for people: the release's id, else the start of the commit's; "" for neither.

    Args:
        settings: `tasks_path` says where the task code is.
    """
    folder = Path(os.path.realpath(home() / settings.tasks_path))
    if folder.parent.name == "releases":
        return folder.name
    return head_commit(folder)[:12]
