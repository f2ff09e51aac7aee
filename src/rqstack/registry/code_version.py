"""The version of the task code on disk: it changes with a deploy, or when Git's HEAD moves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rqstack.settings.git import head_commit
from rqstack.settings.paths import home

if TYPE_CHECKING:
    from rqstack.settings import Settings


def code_version(settings: Settings) -> str:
    """A text that changes with the version of the task code. A few file-system calls, no more.

    Args:
        settings: `tasks_path` says where the task code is.
    """
    folder = home() / settings.tasks_path
    place = os.path.realpath(folder)
    return "|".join((place, os.path.realpath(folder / "current"), head_commit(Path(place))))


def release_name(settings: Settings) -> str:
    """The name of the task code in use, for people: the release's id, else the start of the commit's; "" for neither.

    Args:
        settings: `tasks_path` says where the task code is.
    """
    folder = Path(os.path.realpath(home() / settings.tasks_path))
    if folder.parent.name == "releases":
        return folder.name
    return head_commit(folder)[:12]
