"""Which version of the task code is there: changes when a deploy switches the `current` link, or git's HEAD moves."""

from __future__ import annotations

import os
from pathlib import Path

from rqstack.home import home
from rqstack.settings import Settings


def release(settings: Settings) -> str:
    """A text that changes with the task code's release. A few file-system calls, no more.

    Args:
        settings: Where the task code is.
    """
    folder = home() / settings.tasks_path
    return "|".join((os.path.realpath(folder), os.path.realpath(folder / "current"), _git_head(folder)))


def _git_head(folder: Path) -> str:
    """The commit that is checked out in the repository around a folder, or ""."""
    place = Path(os.path.realpath(folder))
    for parent in (place, *place.parents):
        git = parent / ".git"
        try:
            head = (git / "HEAD").read_text().strip()
        except OSError:
            continue
        reference = head.removeprefix("ref: ")
        for file in (git / reference, git / "packed-refs"):
            try:
                text = file.read_text()
            except OSError:
                continue
            if file.name != "packed-refs":
                return text.strip()
            return next((line.split()[0] for line in text.splitlines() if line.endswith(f" {reference}")), head)
        return head
    return ""
