"""Finds names that look like settings of rqstack but are not: a misspelt one has no effect, which nobody notices."""

from __future__ import annotations

import os
from collections.abc import Iterator

from rqstack.errors import did_you_mean
from rqstack.settings.fields import Settings
from rqstack.settings.loader import PREFIX, declared_settings
from rqstack.settings.paths import home
from rqstack.settings.sources import read_env_file
from rqstack.settings.stack_fields import StackSettings

NOT_SETTINGS = {"RQSTACK_HOME", "RQSTACK_KILL_WAIT"}
"""Variables that are not settings: they are read from the environment only."""


def unknown_settings() -> Iterator[str]:
    """One line for each name in the environment and in `.env` that begins as settings do and is not one of them.

    Raises:
        SettingsError: `.env` cannot be read or parsed.
    """
    declared = [setting for cls in (Settings, StackSettings) for setting in declared_settings(cls).values()]
    names = {name for setting in declared for name in setting.names}
    known = names | NOT_SETTINGS | {f"{setting.name}_FILE" for setting in declared if setting.is_secret}
    endings = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    path = home() / ".env"
    for where, values in (("the environment", os.environ), (str(path), read_env_file(path))):
        for name in sorted(values):
            if name.upper().startswith(PREFIX) and name.upper() not in known:
                hint = did_you_mean(name.upper().removeprefix(PREFIX), endings, prefix=PREFIX)
                yield f"{name} in {where} is not a setting of rqstack, so it has no effect.{hint}"
