"""Imports the task modules of `RQSTACK_TASKS_PATH`, and prints what failed. Run as a process of its own."""

from __future__ import annotations

import logging
import sys

from rqstack.registry.discovery import autodiscover
from rqstack.settings import Settings, load


def main() -> int:
    """The exit code: 0 if every module was imported and at least one was found, else 1."""
    # What fails is printed once, below.
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
