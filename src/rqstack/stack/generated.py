"""The block of `.env` that `make start` maintains: what it has chosen and has to find again.

The rest of the file is the user's, and is never changed. The block stands first, because in `.env` the last line of a
name wins: for python-dotenv, compose and honcho alike. So a line of the user's own wins over the block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rqstack.errors import SettingsError
from rqstack.processes.private_files import private_folder
from rqstack.settings.sources import parse_env, read_env_file
from rqstack.stack.files import locked, write_atomically

BEGIN = "# >>> Chosen by `make start`, which rewrites these lines. Your own line of a name, below them, wins."
END = "# <<< The rest of this file is yours."
FOLDER = "# folder: "
"""Begins the line that names the folder of the block, by which a copied folder is recognized."""


def read(root: Path) -> dict[str, str]:
    """The values in the block, by environment variable; empty if there is none.

    Raises:
        SettingsError: The file cannot be read, or the block has no end.
    """
    return parse_env("".join(_split(root)[1]), root / ".env")


def folder(root: Path) -> Path | None:
    """The folder for which the block was written; None if there is no block."""
    for line in _split(root)[1]:
        if line.startswith(FOLDER):
            return Path(json.loads(line.removeprefix(FOLDER)))
    return None


def own(root: Path) -> dict[str, str]:
    """The user's own values in `.env`: those outside the block."""
    before, _, after = _split(root)
    return parse_env("".join(before + after), root / ".env")


def is_users(root: Path, name: str) -> bool:
    """Whether the user has set a setting, in the environment or in `.env`."""
    # honcho passes all of `.env` on, the block included.
    given = os.environ.get(name)
    return bool(given and given != read(root).get(name)) or name in own(root)


def update(root: Path, values: Mapping[str, str | int | None]) -> None:
    """Set values of the block, and keep the others. Several processes may do this at the same time.

    Args:
        values: By environment variable; None removes one.

    Raises:
        SettingsError: The file cannot be read or written, or the block has no end.
    """
    root = Path(os.path.realpath(root))
    with lock(root):
        before, block, after = _split(root)
        known = parse_env("".join(block), root / ".env")
        wanted = known | {name: str(value) for name, value in values.items() if value is not None}
        wanted = {name: value for name, value in wanted.items() if values.get(name, "") is not None}
        if wanted == known and folder(root) == root:
            return
        newline = "\r\n" if any(line.endswith("\r\n") for line in before + after) else "\n"
        lines = [BEGIN, FOLDER + json.dumps(str(root)), *(f"{name}={value}" for name, value in wanted.items()), END]
        path = (root / ".env").resolve()
        # Where there is none yet, it comes first. A byte order mark stays at the beginning.
        mark = "\ufeff" if not block and after and after[0].startswith("\ufeff") else ""
        text = "".join(before) + mark + "".join(line + newline for line in lines) + "".join(after).removeprefix(mark)
        status = path.stat()
        write_atomically(path, text, status.st_mode & 0o777)
        if os.geteuid() == 0:
            os.chown(path, status.st_uid, status.st_gid)


def _split(root: Path) -> tuple[list[str], list[str], list[str]]:
    """The lines of `.env` before, in and after the block, with their ends."""
    path = root / ".env"
    if not path.is_file():
        return [], [], []
    read_env_file(path)  # for its messages
    lines = path.read_bytes().decode().splitlines(keepends=True)
    marks = [line.removeprefix("\ufeff").strip() for line in lines]
    if BEGIN not in marks:
        return [], [], lines
    begin = marks.index(BEGIN)
    if END not in marks[begin:]:
        raise SettingsError(
            f"{path}, line {begin + 1}: the block that `make start` writes has no end. Remove its lines, or end it "
            f"with this one: {END}"
        )
    end = marks.index(END, begin) + 1
    return lines[:begin], lines[begin:end], lines[end:]


@contextmanager
def lock(root: Path) -> Iterator[None]:
    """Keep other processes of rqstack from changing `.env` meanwhile."""
    private_folder(root / "var")
    with locked(root / "var" / ".env.lock"):
        yield
