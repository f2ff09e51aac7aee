"""The app: with it in INSTALLED_APPS, the site's settings reach rqstack, and manage.py has its commands."""

from __future__ import annotations

from django.apps import AppConfig


class RqstackConfig(AppConfig):
    """The Django app `rqstack`. It has no models."""

    name = "rqstack.contrib.django"
    label = "rqstack"
    verbose_name = "Background jobs"

    def ready(self) -> None:
        """Take rqstack's settings from the site's.

        Raises:
            SettingsError: The site sets something that is not a setting of rqstack.
        """
        from rqstack.contrib.django.site import use_site_settings

        use_site_settings()
