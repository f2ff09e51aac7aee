"""The stack under Docker compose: start, stop, status, logs, and the release of task code."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rqstack.errors import RqstackError
from rqstack.settings import StackSettings, load
from rqstack.stack import build_projects, env, images, ports

Say = Callable[[str], None]
BASE = "docker-compose.yml"
MONITORING = "docker-compose-monitor.yml"
OVERRIDE = "docker-compose.override.yml"
ONE_SHOT = "tasks"
WELL, NOT_WELL, NOTHING_RUNS = 0, 1, 3

LISTENING = {
    "redis": ("Redis", "redis://127.0.0.1:{}/0"),
    "postgres": ("PostgreSQL", "127.0.0.1:{}"),
    "rq-exporter": ("rq-exporter", "http://127.0.0.1:{}/metrics"),
    "dashboard": ("Jobs page", "http://127.0.0.1:{}"),
    "prometheus": ("Prometheus", "http://127.0.0.1:{}"),
    "alertmanager": ("Alertmanager", "http://127.0.0.1:{}"),
    "grafana": ("Grafana", "http://127.0.0.1:{}"),
}
"""What a person opens, by service: its name, and its address with the port left open."""


class StackFailed(RqstackError):
    """The stack did not start or a service is not well; the message names it, with the end of its log."""


class Compose:
    """`docker compose` with the files and the settings of one stack.

    Args:
        root: The home of the stack.
        monitoring: With the services of docker-compose-monitor.yml.
    """

    def __init__(self, root: Path, *, monitoring: bool = False) -> None:
        self.root = root
        self.files = [root / BASE]
        if monitoring and (root / MONITORING).is_file():
            self.files.append(root / MONITORING)
        # As compose itself does where no file is named: `make start` and `docker compose up` run the same.
        if (root / OVERRIDE).is_file():
            self.files.append(root / OVERRIDE)

    def command(self, *arguments: str) -> list[str]:
        """The command line of a call."""
        files = [part for path in self.files for part in ("--file", str(path))]
        # Later files win; the environment wins over all.
        settings = [path for path in (self.root / ".env", self.root / images.FILE) if path.is_file()]
        given = [part for path in settings for part in ("--env-file", str(path))]
        return ["docker", "compose", "--project-directory", str(self.root), *files, *given, *arguments]

    def run(self, *arguments: str, what: str) -> str:
        """Run a call and return what it prints.

        Args:
            arguments: Those of `docker compose`.
            what: What it is for, for the message.

        Raises:
            StackFailed: It failed; the message has the end of what it said.
        """
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).strip().splitlines()[-8:])
            raise StackFailed(f"Cannot {what}: {said}")
        return done.stdout

    def config(self) -> dict[str, Any]:
        """The configuration, with every value filled in."""
        found = json.loads(self.run("config", "--format", "json", what="read the compose files"))
        assert isinstance(found, dict)
        return found

    def containers(self) -> list[dict[str, Any]]:
        """The containers of the project, those that ended included."""
        lines = self.run("ps", "--all", "--format", "json", what="list the containers").splitlines()
        return sorted((json.loads(line) for line in lines if line.strip()), key=lambda row: str(row["Name"]))


def start(root: Path, say: Say, *, monitoring: bool = False, scale: Mapping[str, int] | None = None) -> None:
    """Start the stack in the background; returns when every service is healthy.

    Args:
        root: The home of the stack.
        say: Told each step, and at the end where things listen.
        monitoring: With the services of docker-compose-monitor.yml.
        scale: How many containers of a service, for example `{"worker": 8}`.

    Raises:
        StackFailed: A service is not healthy; the message names it, with the end of its log.
        ImagesMissing: An image can be neither pulled nor built.
        PortInUse: Another program listens on a port; the message names the setting.
        SettingsError: A setting is missing or wrong.
    """
    if env.setup(root):
        say("Made .env with random secrets.")
    compose = Compose(root, monitoring=monitoring)
    settings = load(StackSettings)
    found = images.ensure(root, images.named(compose.config()), settings.pull_timeout, say)
    config = compose.config()
    services = [name for name in config["services"] if name not in found.left_out]
    check_ports(config, services, compose.containers())
    build_projects.stage([root / path for path in settings.tasks_outside], root / "tasks")
    say("Building the images of rqstack and of the tasks.")
    compose.run("build", "--quiet", *services, what="build the images")
    say(f"Starting {', '.join(services)}.")
    counts = [f"--scale={name}={number}" for name, number in (scale or {}).items()]
    # Given by name: a service that is left out is no failure, and one that runs already is left alone.
    waiting = ("--detach", "--wait", f"--wait-timeout={settings.start_timeout}", "--no-build")
    try:
        compose.run("up", *waiting, *counts, *services, what="start the stack")
    except StackFailed as error:
        raise StackFailed(_explain(compose) or str(error)) from None
    published = _published(compose.containers())
    values = {"REDIS_URL": f"redis://127.0.0.1:{published['redis']}/0"}
    values |= {_port_setting(name): str(port) for name, port in published.items()}
    env.write_stack_env("compose", values, root)
    for name, port in published.items():
        what, address = LISTENING.get(name, (name, "127.0.0.1:{}"))
        say(f"{what:12} {address.format(port)}")
    say("Try:         .venv/bin/rqstack trigger --url https://example.com")


def check_ports(config: Mapping[str, Any], services: Iterable[str], running: Sequence[Mapping[str, Any]]) -> None:
    """See that nothing else has a port that a service wants.

    Args:
        config: As `Compose.config` gives it.
        services: The services that shall start.
        running: The containers that run already, as `Compose.containers` gives them; their own ports are no conflict.

    Raises:
        PortInUse: Something has; the message names the setting.
    """
    own = set(_published(running).values())
    for name in services:
        for entry in config["services"][name].get("ports", []):
            port = int(entry["published"])
            if port not in own:
                ports.choose(_port_setting(name), port, given=True)


def stop(root: Path, say: Say) -> None:
    """Stop the stack, monitoring included. Volumes stay: queued jobs wait for the next start.

    Args:
        root: The home of the stack.
        say: Told what happened.

    Raises:
        StackFailed: Docker could not stop it.
    """
    compose = Compose(root, monitoring=True)
    there = bool(compose.containers())
    try:
        compose.run("down", "--remove-orphans", what="stop the stack")
    except StackFailed as error:
        # Docker may count an endpoint of a container that is gone (moby issue 42119). The next start uses the network.
        if "has active endpoints" not in str(error) or compose.containers():
            raise
        say("Docker keeps a network of the stack for now: it still counts a container that has ended.")
    env.remove_stack_env(root)
    say("Stopped." if there else "Nothing runs.")


def status(root: Path, say: Say, *, as_json: bool = False) -> int:
    """Show what runs and whether it is well.

    Args:
        root: The home of the stack.
        say: Told one line a container.
        as_json: One JSON document instead.

    Returns:
        The exit code: 0 if all is well, 1 if something is not, 3 if nothing runs.
    """
    found = Compose(root, monitoring=True).containers()
    rows = [{"process": row["Name"], "service": row["Service"], "well": not _problem(row)} for row in found]
    for row, container in zip(rows, found, strict=True):
        row["reason"] = _problem(container)
        row["status"] = container["Status"]
    addresses = {name: LISTENING.get(name, ("", "{}"))[1].format(port) for name, port in _published(found).items()}
    if as_json:
        say(json.dumps({"mode": "compose", "processes": rows, "listening": addresses}))
    elif not rows:
        say("Nothing runs. Start it with: make start")
    else:
        for row in rows:
            say(f"{row['process']:32} {row['status']}")
        for name, address in addresses.items():
            say(f"{name:32} {address}")
    if not rows:
        return NOTHING_RUNS
    return WELL if all(row["well"] for row in rows) else NOT_WELL


def logs(root: Path, services: Sequence[str] = (), *, follow: bool = False) -> None:
    """Print the end of the logs.

    Args:
        root: The home of the stack.
        services: Default: all.
        follow: Go on until Ctrl-C.
    """
    arguments = ["logs", "--tail=100", *(["--follow"] if follow else []), *services]
    sys.exit(subprocess.run(Compose(root, monitoring=True).command(*arguments), check=False).returncode)


def deploy_tasks(root: Path, say: Say) -> None:
    """Build the shared package image and install it as a new release. No container is restarted.

    Args:
        root: The home of the stack.
        say: Told which release is current.

    Raises:
        StackFailed: It cannot be built, or does not import; then the running release stays.
    """
    compose = Compose(root)
    build_projects.stage([root / path for path in load(StackSettings).tasks_outside], root / "tasks")
    say("Building the task projects.")
    compose.run("build", "--quiet", ONE_SHOT, what="build the task projects")
    _in_tasks(compose, say, "install", "/packages", "--again")


def rollback_tasks(root: Path, say: Say, release: str | None = None) -> None:
    """Switch back to an older release. No container is restarted.

    Args:
        root: The home of the stack.
        say: Told which release is current.
        release: Its id. Default: the one before the current.

    Raises:
        StackFailed: There is none.
    """
    _in_tasks(Compose(root), say, "rollback", *([release] if release else []))


def _in_tasks(compose: Compose, say: Say, *arguments: str) -> None:
    command = compose.command("run", "--rm", "--no-deps", "-T", ONE_SHOT, "rqstack", "tasks", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")] or done.stderr.splitlines()[
            -3:
        ]
        raise StackFailed(" ".join(said).removeprefix("Error: "))
    say(done.stdout.strip())


def _published(containers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The port of this machine that leads to each service that has one."""
    found = {}
    for row in containers:
        for publisher in row.get("Publishers") or []:
            if publisher.get("PublishedPort"):
                found[str(row["Service"])] = int(publisher["PublishedPort"])
    return found


def _port_setting(service: str) -> str:
    return f"{service.upper().replace('-', '_')}_PORT"


def _problem(container: Mapping[str, Any]) -> str:
    """Why a container is not well; empty if it is."""
    state, health = container["State"], container.get("Health", "")
    if container["Service"] == ONE_SHOT:
        return "" if state == "running" or container["ExitCode"] == 0 else f"ended with code {container['ExitCode']}"
    if state != "running":
        return f"{state} (exit code {container['ExitCode']})"
    return health if health not in ("", "healthy") else ""


def _explain(compose: Compose) -> str:
    """What is not well, with the end of each log; empty if nothing is to be seen."""
    found = []
    for row in compose.containers():
        # What was only created waits for another, which is the one to look at.
        if (why := _problem(row)) and row["State"] != "created":
            command = ["docker", "logs", "--tail", "15", row["Name"]]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            log = "".join(f"    {line}\n" for line in done.stdout.splitlines())
            found.append(f"{row['Service']} is not well: {row['Name']} is {why}. The end of its log:\n{log}")
    return "\n".join(found).rstrip()
