"""The `rqstack` command: its table of sub-commands, and the entry point.

Nothing heavy is imported here: `rqstack health` runs every few seconds in every container and answers before click,
msgspec or Redis's client would have been loaded.
"""

from __future__ import annotations

import sys

# name -> (module with the command, attribute, its line in `rqstack --help`)
COMMANDS = {
    "dashboard": ("rqstack.cli.dashboard", "dashboard", "Serve the web page of jobs."),
    "empty": ("rqstack.cli.bulk", "empty", "Delete the waiting jobs of queues."),
    "health": ("rqstack.cli.health_command", "health", "Tell whether Redis, workers and queues are alive."),
    "info": ("rqstack.cli.info", "info", "Show queues, workers and states."),
    "purge": ("rqstack.cli.bulk", "purge", "Delete the queued, failed or scheduled jobs of a queue."),
    "requeue": ("rqstack.cli.bulk", "requeue", "Put failed jobs back on their queues."),
    "result": ("rqstack.cli.result", "result", "Show what became of a job."),
    "resume": ("rqstack.cli.suspend", "resume", "Let suspended workers start jobs again."),
    "scheduler": ("rqstack.cli.scheduler", "scheduler", "Fire the cron table and move delayed jobs."),
    "smoke": ("rqstack.cli.smoke", "smoke", "Run small jobs over the queues, and count what became of them."),
    "stack": ("rqstack.cli.stack", "stack", "Start and stop the whole stack on this machine."),
    "suspend": ("rqstack.cli.suspend", "suspend", "Let workers start no jobs for a while."),
    "tasks": ("rqstack.cli.tasks", "tasks", "List and check tasks, and ship their code."),
    "trigger": ("rqstack.cli.trigger", "trigger", "Enqueue a job."),
    "wait": ("rqstack.cli.wait", "wait", "Wait until jobs have ended."),
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
