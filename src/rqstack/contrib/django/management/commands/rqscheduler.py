"""`manage.py rqscheduler`: runs a scheduler with the site's settings."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from rqstack.errors import RqstackError
from rqstack.registry.preload import preload
from rqstack.scheduling.process import SchedulerProcess


class Command(BaseCommand):
    """Runs a scheduler in the foreground."""

    help = "Fire the cron table and move delayed jobs, as `rqstack scheduler` does. Any number may run."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--name", help="Its name in Redis. Default: from host name and process id.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            settings = preload()
            logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
            code = SchedulerProcess(settings, name=options["name"]).run()
        except RqstackError as error:
            raise CommandError(str(error)) from error
        sys.exit(code)
