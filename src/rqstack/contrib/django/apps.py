"""The Django app: passes the site's settings to rqstack, and adds commands to manage.py."""

from __future__ import annotations

import sys
from pathlib import Path

from django.apps import AppConfig

from rqstack.errors import SettingsError

MANAGERS = ("manage.py", "django-admin")
"""Programs of a person who types a command."""


class RqstackConfig(AppConfig):
    """The Django app `rqstack`. It has no models."""

    name = "rqstack.contrib.django"
    label = "rqstack"
    verbose_name = "Background jobs"

    def ready(self) -> None:
        """Apply the site's settings to rqstack.

        Raises:
            SettingsError: The site sets an unknown setting of rqstack.
            SystemExit: It does, and this is a command of manage.py.
        """
        from rqstack.contrib.django.site import use_site_settings

        try:
            use_site_settings()
        except SettingsError as error:
            if Path(sys.argv[0]).name not in MANAGERS:
                raise
            # manage.py would show a traceback of Django's own code.
            sys.exit(f"Error: {error}")
