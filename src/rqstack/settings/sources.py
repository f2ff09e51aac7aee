"""Finds the values given for settings: in the environment, in files and in a web framework's settings.

`rqstack health` uses it too, which starts every few seconds in every container. So this imports the standard library
only, and python-dotenv once there is a file to parse.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from rqstack.errors import SettingsError
from rqstack.settings import ownership
from rqstack.settings.paths import home

framework_settings: dict[str, Any] = {}
"""Values from a web framework's settings, by environment variable. `set_framework_settings` fills it."""

_CONNECTION = ("REDIS_URL", "REDIS_USERNAME", "REDIS_PASSWORD")


class Sources:
    """The sources of settings. The first that has a value wins:

    1. environment: that of the process
    2. <NAME>_FILE: for a secret, the file that this variable names
    3. var/stack.env: where the running stack writes its ports and mode
    4. .env
    5. <NAME>_FILE in .env: for a secret, the file that it names; a relative path is below the home
    6. framework: the settings of a web framework, such as Django
    7. the stack of this home: where `.env` has its port and its passwords, but no source says where Redis is

    An empty value counts as none, but a secret's file must not be empty. Names may be in lower case in the environment
    and in files. The two files of `home()` are read when an object is created.

    Raises:
        SettingsError: A file cannot be read or parsed.
    """

    def __init__(self) -> None:
        root = home()
        self._environment = _normalize(os.environ)
        self._env_file = read_env_file(root / ".env")
        self._stack_env = read_env_file(root / "var" / "stack.env")
        self._root = root

    def find(self, *names: str, secret: bool = False) -> tuple[Any, str] | None:
        """Find the value of one setting.

        Args:
            names: Its environment variables. Within a source the first one wins.
            secret: Whether `<NAME>_FILE`, with the first name, may name a file that holds the value.

        Returns:
            The value as written, and the source that gave it; None if no source has one.

        Raises:
            SettingsError: The file that `<NAME>_FILE` names cannot be read, or is empty.
        """
        for source, values in (
            ("environment", self._environment),
            (f"{names[0]}_FILE", _secret_file(names[0], self._environment, Path()) if secret else {}),
            ("var/stack.env", self._stack_env),
            (".env", self._env_file),
            (f"{names[0]}_FILE in .env", _secret_file(names[0], self._env_file, self._root) if secret else {}),
            ("framework", framework_settings),
            ("the stack", self._stack_values(names[0])),
        ):
            for name in names:
                if (value := values.get(name)) not in (None, ""):
                    return value, source
        return None

    def _stack_values(self, name: str) -> dict[str, str]:
        """How the user `admin` reaches the Redis of the stack whose `.env` this is, however it was started."""
        password = self._env_file.get("REDIS_ADMIN_PASSWORD")
        if name not in _CONNECTION or not password:
            return {}
        given = (self._environment, self._stack_env, self._env_file, framework_settings)
        if name != _CONNECTION[0]:
            # Credentials belong to their server, and to each other.
            names = {*_CONNECTION, f"{_CONNECTION[2]}_FILE"}
            if any(values.get(each) for values in given for each in names):
                return {}
        port = self._environment.get("REDIS_PORT") or self._env_file.get("REDIS_PORT") or "6379"
        return dict(zip(_CONNECTION, (f"redis://127.0.0.1:{port}/0", "admin", password), strict=True))


def _secret_file(name: str, values: Mapping[str, str], folder: Path) -> dict[str, str]:
    path = values.get(f"{name}_FILE")
    if not path:
        return {}
    if not (value := _read(folder / path, f"{name}_FILE: ").strip()):
        raise SettingsError(f"{name}_FILE: {folder / path} is empty. Write the secret into it, or unset {name}_FILE.")
    return {name: value}


def stamp(secret: str) -> tuple[object, ...]:
    """What changes whenever a file changes that may hold a secret.

    Args:
        secret: Its environment variable.
    """
    root = home()
    env_file = root / ".env"
    found = [_stamp(env_file), _stamp(root / "var" / "stack.env")]
    if path := os.environ.get(f"{secret}_FILE"):
        found.append(_stamp(Path(path)))
    if path := _file_named_in(env_file, found[0], secret):
        found.append(_stamp(root / path))
    return tuple(found)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=16)
def _file_named_in(env_file: Path, as_of: object, secret: str) -> str | None:
    """The file that a line of `.env` names for a secret; read again when `as_of` has changed."""
    return read_env_file(env_file).get(f"{secret}_FILE") if as_of else None


def read_env_file(path: Path) -> dict[str, str]:
    """The values in a file such as `.env`, by name in upper case; empty if there is no file.

    Raises:
        SettingsError: It cannot be read, belongs to another user, or a line is not NAME=value.
    """
    if not path.is_file():
        return {}
    return parse_env(_read(path, is_checked=True), path)


def parse_env(text: str, path: Path) -> dict[str, str]:
    """The values in the text of a file such as `.env`, by name in upper case.

    Args:
        path: The file, for the message.

    Raises:
        SettingsError: A line is not NAME=value.
    """
    # Not `dotenv_values`: it only logs that a line is broken, and that line may be the key that signs.
    from dotenv.main import resolve_variables
    from dotenv.parser import parse_stream

    values = []
    for line in parse_stream(io.StringIO(text)):
        if line.error:
            place = f"{path}, line {line.original.line}"
            raise SettingsError(f"{place}: this is not NAME=value. Perhaps a quotation mark is missing.")
        if line.key is not None:
            values.append((line.key, line.value))
    return _normalize(resolve_variables(values, override=True))


def _normalize(values: Mapping[str, str | None]) -> dict[str, str]:
    """The values that are not empty, by name in upper case."""
    return {name.upper(): value for name, value in values.items() if value}


def _read(path: Path, prefix: str = "", *, is_checked: bool = False) -> str:
    """The text of a file.

    Args:
        is_checked: Whether the file must belong to this user, which matters if nobody has named it.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            if is_checked and (problem := ownership.problem(os.fstat(file.fileno()))):
                raise SettingsError(f"{path} is not read: {problem}. Use a folder of your own, or change its owner.")
            return file.read()
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8"
    raise SettingsError(f"{prefix}cannot read {path}: {reason}. It should be a text file that this user may read.")
