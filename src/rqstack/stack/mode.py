"""Chooses where the stack runs: with compose if a Docker engine answers, else as plain processes."""

from __future__ import annotations

import shutil
import subprocess

from rqstack.errors import RqstackError
from rqstack.settings import StackSettings, load
from rqstack.settings.paths import home
from rqstack.stack import locks

ENGINE_TIMEOUT = 20.0
"""Seconds to wait for an answer of the Docker engine."""


def docker_problem() -> str:
    """Why Docker with compose cannot be used; empty if it can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command, problem in (
        (["docker", "info", "--format", "{{.ServerVersion}}"], "no Docker engine answers"),
        (["docker", "compose", "version", "--short"], "Docker has no compose"),
    ):
        try:
            done = subprocess.run(command, capture_output=True, timeout=ENGINE_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return problem
        # `docker info` exits with 0 and prints no version if there is only a client.
        if done.returncode or not done.stdout.strip():
            return problem
    return ""


class NoEngine(RqstackError):
    """The stack runs with compose, or shall, and no Docker engine answers."""


def choose(wanted: str) -> tuple[str, str]:
    """Choose the mode to start in.

    Args:
        wanted: `local`, `compose`, or `auto`.

    Returns:
        `local` or `compose`, and a line for the user if `auto` chose `local`.

    Raises:
        NoEngine: Compose is wanted, or the stack has run with it before, and no Docker engine answers.
        RqstackError: Compose is wanted, and the stack runs without it.
    """
    if wanted == "compose":
        if any(locks.running_processes(home())):
            raise RqstackError(
                "This stack runs without Docker. Stop it first: make stop. Jobs that wait in its Redis stay there."
            )
        if problem := docker_problem():
            raise NoEngine(
                f"Docker cannot be used: {problem}. Start Docker, or start without it: make start MODE=local"
            )
    if wanted != "auto":
        return wanted, ""
    remembered = load(StackSettings).mode
    if remembered == "local":
        return remembered, ""
    problem = docker_problem()
    if problem and remembered == "compose":
        raise NoEngine(
            f"This stack runs with compose (RQSTACK_MODE in .env), but Docker cannot be used: {problem}. Start Docker. "
            "Or start without it: make start MODE=local. Jobs that wait in the containers stay there."
        )
    if problem:
        return "local", f"Docker cannot be used ({problem}): running the processes of the Procfile on this machine."
    return "compose", ""


def running(wanted: str) -> str:
    """The mode of the running stack, or the one to start in.

    Args:
        wanted: As for `choose`.
    """
    if wanted == "auto" and any(locks.running_processes(home())):
        return "local"  # var/stack.env may be missing, because the stack was killed or is still starting
    remembered = load(StackSettings).mode if wanted == "auto" else wanted
    return choose(wanted)[0] if remembered == "auto" else remembered
