"""Finds the project's root. Imports next to nothing, because the health check uses it too."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """The folder that holds `.env`, `var/` and `tasks/`.

    Returns:
        `$RQSTACK_HOME` if set; else the current folder if it has a `.env`; else the folder of the virtual
        environment's parent if that has one or is a checkout (so `.venv/bin/rqstack` works from anywhere);
        else the current folder.
    """
    if value := os.environ.get("RQSTACK_HOME"):
        return Path(value).resolve()
    here = Path.cwd()
    above = Path(sys.prefix).parent
    if not (here / ".env").is_file() and ((above / ".env").is_file() or (above / ".env.example").is_file()):
        return above
    return here
