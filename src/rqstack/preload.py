"""Loads what a worker needs before it looks for tasks: a framework's set-up, say."""

from __future__ import annotations

from importlib import import_module

from rqstack.errors import SettingsError
from rqstack.settings import Settings, get_settings

DJANGO = "rqstack.contrib.django.worker:setup"
"""Loaded by itself where DJANGO_SETTINGS_MODULE is set. A name and no import: the core knows no framework."""


def preload(settings: Settings | None = None) -> Settings:
    """Load the modules and call the functions of RQSTACK_PRELOAD, in their order; Django first, where it is set.

    A worker calls it before it looks for tasks and before it forks. Calling it again is harmless if what it loads is.

    Args:
        settings: Default: `get_settings()`.

    Returns:
        The settings to go on with: those given; or, where none were, the process's own, to which a framework may
        have added its site's.

    Raises:
        SettingsError: One of them does not load; the message names it, and its error.
    """
    given = settings or get_settings()
    names = list(given.preload)
    if given.django_settings_module and DJANGO not in names:
        names.insert(0, DJANGO)
    for name in names:
        _load(name)
    return settings or get_settings()


def _load(name: str) -> None:
    module_name, _, attribute = name.partition(":")
    try:
        module = import_module(module_name)
        if attribute:
            getattr(module, attribute)()
    except Exception as error:
        raise SettingsError(f"RQSTACK_PRELOAD: {name} does not load: {type(error).__name__}: {error}") from error
