"""The app."""

from django.apps import AppConfig
from django.db import connection


class BrokenConfig(AppConfig):
    """Opens a connection before the worker forks, as careless apps do."""

    name = "broken"

    def ready(self):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
