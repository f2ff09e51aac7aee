"""The `rqstack` command: its table of sub-commands, and the entry point.

Nothing heavy is imported here: `rqstack health` runs every few seconds in every container and answers before click,
pydantic or Redis's client would have been loaded.
"""

from __future__ import annotations

import sys

# name -> (module with the command, attribute, its line in `rqstack --help`)
COMMANDS = {
    "dashboard": ("rqstack.cli.dashboard", "dashboard", "Serve the web page of jobs."),
    "health": ("rqstack.cli.health_command", "health", "Tell whether Redis, workers and queues are alive."),
    "stack": ("rqstack.cli.stack", "stack", "Start and stop the whole stack on this machine."),
    "tasks": ("rqstack.cli.tasks", "tasks", "Ship task code."),
    "worker": ("rqstack.cli.worker", "worker", "Run workers."),
}


def main() -> None:
    """The entry point of `rqstack`."""
    if sys.argv[1:2] == ["health"]:
        from rqstack.cli.health import main as health

        sys.exit(health(sys.argv[2:]))
    from rqstack.cli.group import run

    sys.exit(run())


if __name__ == "__main__":
    main()
