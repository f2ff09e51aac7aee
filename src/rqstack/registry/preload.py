"""Loads what a worker needs before it looks for tasks, such as a framework."""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module

from rqstack.errors import RqstackError, SettingsError
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
    except RqstackError:
        raise
    except Exception as error:
        raise SettingsError(f"RQSTACK_PRELOAD: {name} does not load: {type(error).__name__}: {error}") from error


def preloaded_settings() -> Settings:
    """The settings after preloading, which happens in a child process.

    For a command that only looks at a worker, or forks one: what a framework opens, such as log files, is not to be
    shared with the worker.

    Raises:
        SettingsError: as `preload`.
    """
    settings = get_settings()
    if not settings.preload and not settings.django_settings_module:
        return settings
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            answer: Settings | str = preload()
        except RqstackError as error:
            answer = str(error)
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    loaded = pickle.loads(data) if data else "RQSTACK_PRELOAD: its process died."
    if isinstance(loaded, str):
        raise SettingsError(loaded)
    assert isinstance(loaded, Settings)
    return loaded
