"""Imports the task modules of `RQSTACK_TASKS_PATH` and prints failures. Runs as a subprocess."""

from __future__ import annotations

import logging
import sys

from rqstack.registry.discovery import autodiscover
from rqstack.settings import Settings, load


def main() -> int:
    """Returns the exit code: 0 if at least one module was found and all were imported, else 1."""
    # Failures are printed below, so discovery does not log them.
    logging.getLogger("rqstack.discovery").addHandler(logging.NullHandler())
    logging.getLogger("rqstack.discovery").propagate = False
    found = autodiscover(load(Settings))
    if found.failures:
        print("; ".join(str(failure) for failure in found.failures))
        return 1
    if not any(found.modules.values()):
        print("no task module was found")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
