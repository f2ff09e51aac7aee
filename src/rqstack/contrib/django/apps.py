"""The Django app: passes the site's settings to rqstack, and adds commands to manage.py."""

from __future__ import annotations

from django.apps import AppConfig


class RqstackConfig(AppConfig):
    """The Django app `rqstack`. It has no models."""

    name = "rqstack.contrib.django"
    label = "rqstack"
    verbose_name = "Background jobs"

    def ready(self) -> None:
        """Apply the site's settings to rqstack.

        Raises:
            SettingsError: The site sets an unknown setting of rqstack.
        """
        from rqstack.contrib.django.site import use_site_settings

        use_site_settings()
