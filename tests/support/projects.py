"""Copies of the task projects in tests/projects."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.paths import PROJECTS


def copy_project(project: str, into: Path, *, name: str = "") -> Path:
    """Copy a project, so that a test may change it; returns the folder of its package.

    Args:
        project: Its name in tests/projects.
        into: The folder of projects; made if it is missing.
        name: Another name for the copy and its package.
    """
    name = name or project
    folder = into / name
    shutil.copytree(PROJECTS / project, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if name != project:
        (folder / project).rename(folder / name)
        about = folder / "pyproject.toml"
        about.write_text(about.read_text().replace(f'name = "{project}"', f'name = "{name}"'))
    return folder / name
