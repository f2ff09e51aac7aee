"""Sets up Django in a worker, once before it forks, and closes database connections around forks and jobs."""

from __future__ import annotations

import sys

from rqstack.errors import SettingsError
from rqstack.processes import hooks
from rqstack.registry.discovery import discover_packages
from rqstack.settings import get_settings


def setup() -> None:
    """Set up the site, apply its settings, and import `tasks.py` and `commands.py` of every installed app.

    Called automatically if DJANGO_SETTINGS_MODULE is set. Idempotent. A module that cannot be imported is logged, and
    the others are still imported.

    Raises:
        SettingsError: The site's settings cannot be loaded.
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
            "Check DJANGO_SETTINGS_MODULE and PYTHONPATH."
        ) from error
    from rqstack.contrib.django.site import use_site_settings

    use_site_settings()
    discover_packages(config.name for config in apps.get_app_configs())
    _register(hooks.before_fork, close_all_connections)
    _register(hooks.before_job, prepare_connections)
    _register(hooks.after_job, close_old_connections)


def close_all_connections() -> None:
    """Close all database connections, because processes must not share one."""
    from django.db import connections

    connections.close_all()


def prepare_connections() -> None:
    """Clear the query log and close connections that are broken or too old, as Django does before a request."""
    from django import db

    db.reset_queries()
    db.close_old_connections()


def close_old_connections() -> None:
    """Close connections, unless CONN_MAX_AGE keeps them, as Django does after a request."""
    from django import db

    db.close_old_connections()


def _register(hook_list: list[hooks.Hook], hook: hooks.Hook) -> None:
    if hook not in hook_list:
        hook_list.append(hook)
