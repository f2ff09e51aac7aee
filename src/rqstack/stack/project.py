"""The name of a compose project: one per folder, so that two clones do not share containers, volumes or images."""

from __future__ import annotations

import os
import re
import subprocess
from hashlib import sha256
from pathlib import Path

from rqstack.errors import RqstackError, SettingsError
from rqstack.settings import StackSettings
from rqstack.settings.loader import declared_settings
from rqstack.stack import generated
from rqstack.stack.mode import ENGINE_TIMEOUT

FORMER = str(declared_settings(StackSettings)["project"].default)
"""The name that every folder had before names were chosen by folder, and has without `.env`."""

_LABEL = "com.docker.compose.project"


class ForeignStack(RqstackError):
    """The containers of this project belong to another folder. The message names it."""


def of_folder(root: Path) -> str:
    """The name for a folder: readable, and another one for each path."""
    readable = re.sub(r"[^a-z0-9_-]+", "-", root.name.lower()).strip("-_")[:40] or "stack"
    return f"{readable}-{sha256(os.fsencode(root)).hexdigest()[:6]}"


def choose(root: Path, *, is_new: bool, recorded: str | None, recorded_for: Path | None) -> str | None:
    """Choose the name of the project.

    Args:
        root: The home of the stack.
        is_new: Whether its `.env` has just been made.
        recorded: The name that was chosen before; None if none was.
        recorded_for: The folder for which it was chosen.

    Returns:
        The name; None while it is not known whether the folder has containers or volumes of the former name, since no
        Docker engine answers.
    """
    if recorded is not None:
        # A folder that was moved keeps its volumes; a copy beside the original gets its own.
        is_copy = recorded_for not in (None, root) and _has_block(recorded_for)
        return of_folder(root) if is_copy else recorded
    if is_new:
        return of_folder(root)
    found = _docker("ps", "--all", "--format", f'{{{{.Label "{_LABEL}.working_dir"}}}}', project=FORMER)
    if found is None:
        return None
    if found:
        return FORMER if any(_is_same(Path(folder), root) for folder in found) else of_folder(root)
    volumes = _docker("volume", "ls", "--quiet", project=FORMER)
    return FORMER if volumes else of_folder(root)


def check_owner(name: str, root: Path) -> None:
    """Check that no other folder runs a project of this name.

    Raises:
        ForeignStack: One does.
    """
    for line in _docker("ps", "--all", "--format", f'{{{{.Label "{_LABEL}.working_dir"}}}}', project=name) or ():
        folder = Path(line)
        # Where the folder is gone, it was moved to here.
        if folder.is_dir() and not _is_same(folder, root):
            raise ForeignStack(
                f"The containers of the compose project {name} belong to {folder}. Stop that stack with `make stop` "
                f"there, or set COMPOSE_PROJECT_NAME to another name in {root / '.env'}."
            )


def _docker(*arguments: str, project: str) -> list[str] | None:
    """The lines that a command prints about one project; None if no engine answers."""
    command = ["docker", *arguments, "--filter", f"label={_LABEL}={project}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ENGINE_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line for line in done.stdout.splitlines() if line] if done.returncode == 0 else None


def _has_block(folder: Path | None) -> bool:
    try:
        return folder is not None and (folder / ".env").is_file() and generated.folder(folder) == folder
    except (OSError, SettingsError):
        return True  # somebody's, who does not let us read it


def _is_same(folder: Path, root: Path) -> bool:
    return os.path.realpath(folder) == os.path.realpath(root)
