"""Logging: lines for people, or one JSON object per line for collectors."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from rqstack.processes.printable import printable

if TYPE_CHECKING:
    from rqstack.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class TextFormatter(logging.Formatter):
    """Lines for a terminal: names of jobs and queues, and texts of errors, come from Redis."""

    def __init__(self) -> None:
        super().__init__(TEXT)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def configure(settings: Settings) -> None:
    """Log to stderr as the settings say, RQ's own lines included.

    Args:
        settings: `log_level` and `log_format` are used.
    """
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                "%(asctime)s %(levelname)s %(name)s %(message)s",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    # RQ sets its loggers to INFO when it is imported, and adds handlers where it finds none.
    for name in ("rq.worker", "rq.job", "rq.scheduler", "rq.queue", "rq.registry"):
        logging.getLogger(name).setLevel(settings.log_level)
