"""Where the stack runs: under compose where a Docker engine answers, else as plain processes."""

from __future__ import annotations

import shutil
import subprocess

from rqstack.settings.paths import home
from rqstack.stack import env, locks

PATIENCE = 20.0
"""Seconds an engine gets to answer."""


def docker_answers() -> str:
    """Why there is no Docker engine with compose to use; empty if there is one."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command, what in (
        (["docker", "info", "--format", "{{.ServerVersion}}"], "no Docker engine answers"),
        (["docker", "compose", "version", "--short"], "Docker has no compose"),
    ):
        try:
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return what
        # `docker info` ends with 0 and an empty version when only the client is there.
        if done.returncode or not done.stdout.strip():
            return what
    return ""


def choose(wanted: str) -> tuple[str, str]:
    """The mode to start in.

    Args:
        wanted: `local`, `compose`, or `auto`.

    Returns:
        `local` or `compose`, and a line that says why if nobody chose it.
    """
    if wanted != "auto":
        return wanted, ""
    if running := env.read_stack_env().get("RQSTACK_MODE"):
        return running, ""
    if reason := docker_answers():
        return "local", f"No Docker here ({reason}): running the processes of the Procfile on this machine."
    return "compose", ""


def running(wanted: str) -> str:
    """The mode of the stack that runs: what it wrote about itself, else what would be started.

    Args:
        wanted: As for `choose`.
    """
    if wanted == "auto" and any(locks.holders(home())):
        return "local"  # also where a stack was killed, or has not got as far as writing it
    return choose(wanted)[0]
