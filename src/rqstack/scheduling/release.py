"""Which version of the task code is there: changes when a deploy switches the `current` link, or git's HEAD moves."""

from __future__ import annotations

import os
from pathlib import Path

from rqstack.checkout import head
from rqstack.home import home
from rqstack.settings import Settings


def release(settings: Settings) -> str:
    """A text that changes with the task code's release. A few file-system calls, no more.

    Args:
        settings: Where the task code is.
    """
    folder = home() / settings.tasks_path
    place = os.path.realpath(folder)
    return "|".join((place, os.path.realpath(folder / "current"), head(Path(place))))
