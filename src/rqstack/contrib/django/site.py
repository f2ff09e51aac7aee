"""Reads rqstack's settings from those of a Django site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rqstack.settings import Settings
from rqstack.settings.fields import set_framework_settings
from rqstack.settings.loader import declared_settings

ENGINES = {"django.db.backends.sqlite3": "sqlite", "django.db.backends.postgresql": "postgresql+psycopg"}


def use_site_settings() -> None:
    """Make the site's settings the defaults of `get_settings()`; the environment and `.env` override them.

    Raises:
        SettingsError: The site sets an unknown setting of rqstack.
    """
    from django.conf import settings

    set_framework_settings(site_settings(settings))


def site_settings(settings: Any) -> dict[str, Any]:
    """A site's settings of rqstack, by environment name.

    They come from the dict `RQSTACK`, whose keys are names of settings with or without their prefix, and from settings
    named as in the environment: `RQSTACK_QUEUES`, `REDIS_URL`, `QUEUE_BACKEND`. The database is the site's default
    database, unless `RQSTACK_DATABASE_URL` is set.

    Args:
        settings: `django.conf.settings` or a module.
    """
    found: dict[str, Any] = {}
    if url := database_url(getattr(settings, "DATABASES", {}).get("default", {})):
        found["RQSTACK_DATABASE_URL"] = url
    names = {setting.name for setting in declared_settings(Settings).values()} - {"DJANGO_SETTINGS_MODULE"}
    given = dict(getattr(settings, "RQSTACK", {}))
    found |= {f"RQSTACK_{key}" if f"RQSTACK_{key}" in names else key: value for key, value in given.items()}
    for name in (*names, "QUEUE_BACKEND", "QUEUE_CONNECTION"):
        if (value := getattr(settings, name, None)) is not None:
            found[f"RQSTACK_{name}" if f"RQSTACK_{name}" in names else name] = value
    return {name: _freeze(value) for name, value in found.items()}


def database_url(database: Mapping[str, Any]) -> str | None:
    """The URL of one entry of Django's DATABASES; None if it is neither PostgreSQL nor an SQLite file."""
    kind = ENGINES.get(database.get("ENGINE", ""))
    name = str(database.get("NAME") or "")
    if kind is None or not name or (kind == "sqlite" and "memory" in name):
        return None
    try:
        from sqlalchemy import URL
    except ImportError:
        return None  # without SQLAlchemy nothing uses the database
    if kind == "sqlite":
        return URL.create(kind, database=name).render_as_string()
    options = database.get("OPTIONS") or {}
    query = {key: str(value) for key, value in options.items() if key in ("sslmode", "sslrootcert", "options")}
    return URL.create(
        kind,
        username=database.get("USER") or None,
        password=database.get("PASSWORD") or None,
        host=database.get("HOST") or None,
        port=int(database["PORT"]) if database.get("PORT") else None,
        database=name,
        query=query,
    ).render_as_string(hide_password=False)


def _freeze(value: Any) -> Any:
    """Convert a list to a tuple, because settings are immutable."""
    return tuple(value) if isinstance(value, list) else value
