"""A worker's Django: the site is set up once, before the fork, and database connections never cross a fork or a job."""

from __future__ import annotations

import sys

from rqstack.errors import SettingsError
from rqstack.processes import hooks
from rqstack.registry.discovery import discover_packages
from rqstack.settings import get_settings


def setup() -> None:
    """Set the site up, take its settings, and import `tasks.py` and `commands.py` of every installed app.

    It is loaded by itself in processes for which DJANGO_SETTINGS_MODULE is set. A module that does not import is
    logged by name, and hides no other. Calling it again is harmless.

    Raises:
        SettingsError: The site's settings do not load.
    """
    module = get_settings().django_settings_module
    try:
        import django
        from django.apps import apps
    except ImportError:
        raise SettingsError(
            f"DJANGO_SETTINGS_MODULE={module} is set, but Django is not installed in {sys.prefix}. "
            "Install it, or unset the variable."
        ) from None
    try:
        django.setup()
    except SettingsError:
        raise
    except Exception as error:
        raise SettingsError(
            f"Django does not start with DJANGO_SETTINGS_MODULE={module}: {type(error).__name__}: {error}. "
            "Check it, and PYTHONPATH."
        ) from error
    from rqstack.contrib.django.site import use_site_settings

    use_site_settings()
    discover_packages(config.name for config in apps.get_app_configs())
    _add(hooks.before_fork, close_all)
    _add(hooks.before_job, refresh)
    _add(hooks.after_job, close_old)


def close_all() -> None:
    """Close every database connection: two processes must not share one."""
    from django.db import connections

    connections.close_all()


def refresh() -> None:
    """As Django does before a request: no query log of the job before, no connection that broke or is too old."""
    from django.db import close_old_connections, reset_queries

    reset_queries()
    close_old_connections()


def close_old() -> None:
    """As Django does after a request: close connections, unless CONN_MAX_AGE keeps them."""
    from django.db import close_old_connections

    close_old_connections()


def _add(place: list[hooks.Hook], hook: hooks.Hook) -> None:
    if hook not in place:
        place.append(hook)
