"""Finds the values given for settings: in the environment, in files and in a web framework's settings.

`rqstack health` uses it too, which starts every few seconds in every container. So this imports the standard library
only, and python-dotenv once there is a file to parse.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rqstack.errors import SettingsError
from rqstack.settings.paths import home

framework_settings: dict[str, Any] = {}
"""Values from a web framework's settings, by environment variable. `set_framework_settings` fills it."""


class Sources:
    """The sources of settings. The first that has a value wins:

    1. environment: that of the process
    2. <NAME>_FILE: for a secret, the file that this variable names
    3. var/stack.env: where the running stack writes its ports and mode
    4. .env
    5. framework: the settings of a web framework, such as Django

    An empty value counts as none. Names may be in lower case in the environment and in files. The two files of `home()`
    are read when an object is created.

    Raises:
        SettingsError: A file cannot be read or parsed.
    """

    def __init__(self) -> None:
        root = home()
        self._environment = _normalize(os.environ)
        self._env_file = read_env_file(root / ".env")
        self._stack_env = read_env_file(root / "var" / "stack.env")

    def find(self, *names: str, secret: bool = False) -> tuple[Any, str] | None:
        """Find the value of one setting.

        Args:
            names: Its environment variables. Within a source the first one wins.
            secret: Whether `<NAME>_FILE`, with the first name, may name a file that holds the value.

        Returns:
            The value as written, and the source that gave it; None if no source has one.

        Raises:
            SettingsError: The file that `<NAME>_FILE` names cannot be read.
        """
        for source, values in (
            ("environment", self._environment),
            (f"{names[0]}_FILE", self._secret_file(names[0]) if secret else {}),
            ("var/stack.env", self._stack_env),
            (".env", self._env_file),
            ("framework", framework_settings),
        ):
            for name in names:
                if (value := values.get(name)) not in (None, ""):
                    return value, source
        return None

    def _secret_file(self, name: str) -> dict[str, str]:
        path = self._environment.get(f"{name}_FILE")
        return {name: _read(Path(path), f"{name}_FILE: ").strip()} if path else {}


def read_env_file(path: Path) -> dict[str, str]:
    """The values in a file such as `.env`, by name in upper case; empty if there is no file.

    Raises:
        SettingsError: It cannot be read, or a line is not NAME=value.
    """
    if not path.is_file():
        return {}
    # Not `dotenv_values`: it only logs that a line is broken, and that line may be the key that signs.
    from dotenv.main import resolve_variables
    from dotenv.parser import parse_stream

    values = []
    for line in parse_stream(io.StringIO(_read(path))):
        if line.error:
            place = f"{path}, line {line.original.line}"
            raise SettingsError(f"{place}: this is not NAME=value. Perhaps a quotation mark is missing.")
        if line.key is not None:
            values.append((line.key, line.value))
    return _normalize(resolve_variables(values, override=True))


def _normalize(values: Mapping[str, str | None]) -> dict[str, str]:
    """The values that are not empty, by name in upper case."""
    return {name.upper(): value for name, value in values.items() if value}


def _read(path: Path, prefix: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} is not UTF-8"
    raise SettingsError(f"{prefix}cannot read {path}: {reason}. It should be a text that this user may read.")
