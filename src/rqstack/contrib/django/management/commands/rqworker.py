"""`manage.py rqworker`: runs a worker with the site's settings."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from rqstack.errors import RqstackError
from rqstack.worker.run import run_worker


class Command(BaseCommand):
    """Runs a worker in the foreground."""

    help = "Run a worker in the foreground, as `rqstack worker run` does."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queues", nargs="*", help="In order of priority. Default: RQSTACK_QUEUES.")
        parser.add_argument("-n", "--processes", type=int, help="Jobs to run concurrently. Default: RQSTACK_PROCESSES.")
        parser.add_argument("-b", "--burst", action="store_true", help="Exit when the queues are empty.")
        parser.add_argument("--backend", help="Dotted path of a message backend. Default: QUEUE_BACKEND.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["processes"] is not None and not 1 <= options["processes"] <= 512:
            raise CommandError(f"--processes: {options['processes']} is out of range: should be 1 to 512.")
        try:
            code = run_worker(
                options["queues"],
                processes=options["processes"],
                burst=options["burst"],
                backend=options["backend"],
            )
        except RqstackError as error:
            raise CommandError(str(error)) from error
        sys.exit(code)
