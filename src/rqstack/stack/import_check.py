"""Imports the task modules of `RQSTACK_TASKS_PATH` and prints failures. Runs as a subprocess.

With `--local` as the workers and the scheduler of this machine do: after the framework, with the modules of the cron
table, and a checkout may have no task at all.
"""

from __future__ import annotations

import logging
import sys

from rqstack.errors import RqstackError
from rqstack.registry.discovery import CRON, MODULES, autodiscover
from rqstack.registry.preload import preloaded_settings
from rqstack.settings import Settings, load


def main(*, local: bool) -> int:
    """Returns the exit code: 0 if all modules were imported, and at least one was found unless `local`, else 1."""
    # Failures are printed below, so discovery does not log them.
    logging.getLogger("rqstack.discovery").addHandler(logging.NullHandler())
    logging.getLogger("rqstack.discovery").propagate = False
    try:
        settings = preloaded_settings() if local else load(Settings)
    except RqstackError as error:
        print(error)
        return 1
    found = autodiscover(settings, modules=(*MODULES, CRON) if local else MODULES)
    if found.failures:
        print("; ".join(str(failure) for failure in found.failures))
        return 1
    if not local and not any(found.modules.values()):
        print("no task module was found")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(local="--local" in sys.argv[1:]))
