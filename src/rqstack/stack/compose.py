"""Runs the stack with Docker compose: start, stop, status, logs, and releases of task code."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rqstack.errors import RqstackError
from rqstack.settings import StackSettings, load
from rqstack.settings.loader import declared_settings
from rqstack.stack import build_projects, choices, env, generated, images, project, redis_tls
from rqstack.stack.redis_users import RedisUsers
from rqstack.stack.reporting import JOBS_PAGE_LOGIN, Report

BASE = "docker-compose.yml"
MONITORING = "docker-compose-monitor.yml"
OVERRIDE = "docker-compose.override.yml"
TASKS_SERVICE = "tasks"
"""The service that installs the task code and exits."""

AS_BUILT = json.dumps({"services": {TASKS_SERVICE: {"pull_policy": "never"}}})
"""Compose file that keeps `docker compose run` from building the image: a rollback must not depend on today's code."""

GRAFANA_PROFILE = declared_settings(StackSettings)["grafana_profile"].name
"""The setting that leaves Grafana out, where its image is missing."""

HEALTHY, UNHEALTHY, NOT_RUNNING = 0, 1, 3
"""Exit codes of `status`."""

ADDRESSES = {
    "redis": ("Redis", "{}"),
    "postgres": ("PostgreSQL", "127.0.0.1:{}"),
    "rq-exporter": ("rq-exporter", "http://127.0.0.1:{}/metrics"),
    "dashboard": ("Jobs page", "http://127.0.0.1:{}"),
    "prometheus": ("Prometheus", "http://127.0.0.1:{}"),
    "alertmanager": ("Alertmanager", "http://127.0.0.1:{}"),
    "grafana": ("Grafana", "http://127.0.0.1:{}"),
}
"""Title and address of each service, without the port."""

SECOND_PULL_TIMEOUT = 10.0
"""Seconds that further pulls may take where no registry has answered."""

LOGINS = {"dashboard": JOBS_PAGE_LOGIN, "grafana": "  user admin, password: GRAFANA_PASSWORD in .env"}
"""How to log in, by service."""


class StackFailed(RqstackError):
    """The stack did not start, or a service is unhealthy. The message has its name and the end of its log."""


class Compose:
    """Calls `docker compose` with the files and settings of one stack.

    Args:
        root: The home of the stack.
        monitoring: Include the services of docker-compose-monitor.yml.
    """

    def __init__(self, root: Path, *, monitoring: bool = False) -> None:
        self.root = root
        self.files = [root / BASE]
        if monitoring and (root / MONITORING).is_file():
            self.files.append(root / MONITORING)
        # compose reads this file by default, so `make start` and `docker compose up` run the same services.
        if (root / OVERRIDE).is_file():
            self.files.append(root / OVERRIDE)

    def command(self, *arguments: str) -> list[str]:
        """The command line of a `docker compose` call."""
        files = [part for path in self.files for part in ("--file", str(path))]
        env_file = ["--env-file", str(self.root / ".env")] if (self.root / ".env").is_file() else []
        return ["docker", "compose", "--project-directory", str(self.root), *files, *env_file, *arguments]

    def run(self, *arguments: str, purpose: str, environment: Mapping[str, str] | None = None) -> str:
        """Run `docker compose` and return its output.

        Args:
            purpose: Completes "Cannot …" in the error message.
            environment: Further variables, which win over `.env`.

        Raises:
            StackFailed: It failed. The message has the end of its output.
        """
        given = {**os.environ, **(environment or {})}
        done = subprocess.run(self.command(*arguments), env=given, capture_output=True, text=True, check=False)
        if done.returncode:
            output = " ".join((done.stderr or done.stdout).strip().splitlines()[-8:])
            raise StackFailed(f"Cannot {purpose}: {output}")
        return done.stdout

    def config(self, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The configuration with all variables resolved.

        Args:
            environment: Further variables, which win over `.env`.
        """
        output = self.run("config", "--format", "json", purpose="read the compose files", environment=environment)
        config = json.loads(output)
        assert isinstance(config, dict)
        return config

    def project(self) -> str:
        """The name of the project.

        Raises:
            ForeignStack: Its containers belong to another folder.
        """
        name = str(self.config()["name"])
        project.check_owner(name, self.root)
        return name

    def containers(self) -> list[dict[str, Any]]:
        """The containers of the project, including those that exited."""
        lines = self.run("ps", "--all", "--format", "json", purpose="list the containers").splitlines()
        return sorted((json.loads(line) for line in lines if line.strip()), key=lambda row: str(row["Name"]))


def start(root: Path, report: Report, *, monitoring: bool = False, scale: Mapping[str, int] | None = None) -> None:
    """Start the stack in the background, and return when every service is healthy.

    Args:
        monitoring: Include the services of docker-compose-monitor.yml.
        scale: Number of containers by service, for example `{"worker": 8}`.

    Raises:
        StackFailed: A service is unhealthy.
        ImagesMissing: An image can be neither pulled nor built.
        PortInUse: Another program listens on a port that the user set.
        ForeignStack: The containers of this project belong to another folder.
        SettingsError: A setting is missing or invalid.
    """
    users = RedisUsers(root)
    env.setup_and_report(root, report)
    compose = Compose(root, monitoring=monitoring)
    settings = load(StackSettings)
    name = compose.project()
    _provide_images(compose, settings.pull_timeout, report)
    config = compose.config()
    services = list(config["services"])
    check_scale(config, scale or {})
    check_ports(root, config, services, compose.containers(), report)
    if any(row["Service"] == "redis" and row["State"] == "running" for row in compose.containers()):
        users.apply()
    build_projects.copy_outside_projects([root / path for path in settings.tasks_outside], root / "tasks")
    report("Building the images of rqstack and of the tasks.")
    compose.run("build", "--quiet", *services, purpose="build the images")
    report(f"Starting {', '.join(services)}.")
    counts = [f"--scale={service}={number}" for service, number in (scale or {}).items()]
    # Named explicitly, so that services that are left out are not started.
    options = ("--detach", "--wait", f"--wait-timeout={settings.start_timeout}", "--no-build")
    try:
        compose.run("up", *options, *counts, *services, purpose="start the stack")
    except StackFailed as error:
        raise StackFailed(_describe_unhealthy(compose) or str(error)) from None
    choices.remember_mode(root, "compose")
    images.remove_former(name, report)
    published = _published_ports(compose.containers())
    values = {"REDIS_URL": redis_tls.redis_url(published["redis"])}
    values |= {_port_setting(name): str(port) for name, port in published.items()}
    env.write_stack_env("compose", values, root)
    for service, port in published.items():
        title, address = _address(service, port)
        report(f"{title:12} {address}{LOGINS.get(service, '').format(user=settings.dashboard_username)}")


def _address(service: str, port: int) -> tuple[str, str]:
    """The title and the address of a service."""
    title, address = ADDRESSES.get(service, (service, "127.0.0.1:{}"))
    return title, address.format(redis_tls.redis_url(port) if service == "redis" else port)


def _provide_images(compose: Compose, pull_timeout: float, report: Report) -> None:
    """Pull or build missing images, and remember in `.env` what `docker compose` needs to know of them."""
    root = compose.root
    is_users = generated.is_users(root, GRAFANA_PROFILE)
    with_grafana = None if is_users else {GRAFANA_PROFILE: ""}
    config = compose.config(with_grafana)
    found = images.ensure(root, images.external_images(config), pull_timeout, report)
    if found.built:
        # No registry answers, so a plain `docker compose` with monitoring could not pull its images later.
        config = Compose(root, monitoring=True).config(with_grafana)
        rest = {name: image for name, image in images.external_images(config).items() if name not in found.seen}
        found = found.joined(images.ensure(root, rest, min(pull_timeout, SECOND_PULL_TIMEOUT), report))
    values: dict[str, str | int | None] = dict(found.built)
    if "grafana" in found.seen and not is_users:
        # The plain command leaves it out as well: a profile that nobody asks for.
        values[GRAFANA_PROFILE] = "grafana" if "grafana" in found.left_out else None
    generated.update(root, values)


def check_scale(config: Mapping[str, Any], scale: Mapping[str, int]) -> None:
    """Check that services can have several containers.

    Args:
        config: From `Compose.config`.
        scale: Number of containers by service.

    Raises:
        RqstackError: A service does not exist, or has a port or the task volume for itself.
    """
    services = config["services"]
    scalable = [name for name, service in services.items() if not service.get("ports") and name != TASKS_SERVICE]
    for name in scale:
        if name not in scalable:
            reason = "it can have one container only" if name in services else "no such service"
            raise RqstackError(f"--scale {name}: {reason}. These can have several: {', '.join(scalable)}.")


def check_ports(
    root: Path,
    config: Mapping[str, Any],
    services: Iterable[str],
    running: Sequence[Mapping[str, Any]],
    report: Report,
) -> None:
    """Make sure that the ports of services are free: choose others in place of those that are not.

    Args:
        root: The home of the stack.
        config: From `Compose.config`.
        services: The services to start.
        running: From `Compose.containers`. Ports of these containers do not conflict.

    Raises:
        PortInUse: The user set a port, and another program listens on it.
    """
    own = set(_published_ports(running).values())
    for name in services:
        for entry in config["services"][name].get("ports", []):
            port = int(entry["published"])
            if port not in own:
                choices.move_port(root, _port_setting(name), port, report)


def stop_monitoring(root: Path, report: Report) -> None:
    """Stop and remove the containers of docker-compose-monitor.yml. The stack and the volumes stay.

    Raises:
        StackFailed: Docker could not stop them.
        ForeignStack: The containers of this project belong to another folder.
    """
    compose = Compose(root, monitoring=True)
    compose.project()
    others = set(Compose(root).config()["services"])
    running = sorted({str(row["Service"]) for row in compose.containers()} - others)
    if running:
        compose.run("rm", "--stop", "--force", *running, purpose="stop the monitoring")
    report(f"Stopped {', '.join(running)}. The stack still runs." if running else "No monitoring runs.")


def stop(root: Path, report: Report) -> None:
    """Stop the stack, including monitoring. Volumes and queued jobs are kept.

    Raises:
        StackFailed: Docker could not stop it.
        ForeignStack: The containers of this project belong to another folder.
    """
    compose = Compose(root, monitoring=True)
    compose.project()
    was_running = bool(compose.containers())
    try:
        compose.run("down", "--remove-orphans", purpose="stop the stack")
    except StackFailed as error:
        # Docker may keep an endpoint of a removed container (moby issue 42119). The next start reuses the network.
        if "has active endpoints" not in str(error) or compose.containers():
            raise
        report("Docker keeps a network of the stack, because it still counts a removed container.")
    env.remove_stack_env(root)
    report("Stopped." if was_running else "Nothing runs.")


def status(root: Path, report: Report, *, as_json: bool = False) -> int:
    """Print the containers and their health, one per line.

    Args:
        as_json: Print one JSON document instead.

    Returns:
        The exit code: 0 if all are healthy, 1 if one is not, 3 if none runs.
    """
    compose = Compose(root, monitoring=True)
    name = compose.project()
    containers = compose.containers()
    rows: list[dict[str, Any]] = [
        {
            "process": container["Name"],
            "service": container["Service"],
            "healthy": not _problem(container),
            "reason": _problem(container),
            "status": container["Status"],
        }
        for container in containers
    ]
    addresses = {service: _address(service, port)[1] for service, port in _published_ports(containers).items()}
    if as_json:
        report(json.dumps({"mode": "compose", "project": name, "processes": rows, "listening": addresses}))
    elif not rows:
        report("Nothing runs. Start it with: make start")
    else:
        report(f"{'Compose project':32} {name}")
        for row in rows:
            report(f"{row['process']:32} {row['status']}")
        for service, address in addresses.items():
            report(f"{service:32} {address}")
    if not rows:
        return NOT_RUNNING
    return HEALTHY if all(row["healthy"] for row in rows) else UNHEALTHY


def logs(root: Path, services: Sequence[str] = (), *, follow: bool = False) -> int:
    """Print the end of the logs.

    Args:
        services: Default: all.
        follow: Keep printing until Ctrl-C.

    Returns:
        The exit code.

    Raises:
        RqstackError: There is no such service.
    """
    compose = Compose(root, monitoring=True)
    known = compose.config()["services"]
    if unknown := [name for name in services if name not in known]:
        raise RqstackError(f"{unknown[0]}: no such service. Known are {', '.join(known)}.")
    arguments = ["logs", "--tail=100", *(["--follow"] if follow else []), *services]
    return subprocess.run(compose.command(*arguments), check=False).returncode


def deploy_tasks(root: Path, report: Report) -> None:
    """Build the shared package image and install it as a new release, without restarting a container.

    Raises:
        StackFailed: The build or an import failed. The running release stays.
    """
    compose = Compose(root)
    name = compose.project()
    build_projects.copy_outside_projects([root / path for path in load(StackSettings).tasks_outside], root / "tasks")
    report("Building the task projects.")
    compose.run("build", "--quiet", TASKS_SERVICE, purpose="build the task projects")
    _run_tasks_command(compose, report, "install", "/packages", "--again")
    images.remove_former(name, report)


def rollback_tasks(root: Path, report: Report, release: str | None = None) -> None:
    """Switch back to an older release, without restarting a container.

    Args:
        release: Its id. Default: the one before the current.

    Raises:
        StackFailed: There is no such release.
    """
    _run_tasks_command(Compose(root), report, "rollback", *([release] if release else []))


def _run_tasks_command(compose: Compose, report: Report, *arguments: str) -> None:
    command = compose.command(
        "--file", "-", "run", "--rm", "--no-deps", "-T", TASKS_SERVICE, "rqstack", "tasks", *arguments
    )
    done = subprocess.run(command, input=AS_BUILT, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("Error: ")] or lines[-3:]
        raise StackFailed(" ".join(errors).removeprefix("Error: "))
    report(done.stdout.strip())


def _published_ports(containers: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The published port of each service that has one."""
    published = {}
    for row in containers:
        for publisher in row.get("Publishers") or []:
            if publisher.get("PublishedPort"):
                published[str(row["Service"])] = int(publisher["PublishedPort"])
    return published


def _port_setting(service: str) -> str:
    return f"{service.upper().replace('-', '_')}_PORT"


def _problem(container: Mapping[str, Any]) -> str:
    """Why a container is unhealthy; empty if it is healthy."""
    state, health = container["State"], container.get("Health", "")
    if container["Service"] == TASKS_SERVICE:
        return "" if state == "running" or container["ExitCode"] == 0 else f"exited with code {container['ExitCode']}"
    if state != "running":
        return f"{state} (exit code {container['ExitCode']})"
    return health if health not in ("", "healthy") else ""


def _describe_unhealthy(compose: Compose) -> str:
    """The unhealthy containers, each with the end of its log; empty if there is none."""
    descriptions = []
    for row in compose.containers():
        # A container that is only created waits for an unhealthy one.
        if (problem := _problem(row)) and row["State"] != "created":
            command = ["docker", "logs", "--tail", "15", row["Name"]]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            log = "".join(f"    {line}\n" for line in done.stdout.splitlines())
            descriptions.append(f"{row['Service']} is unhealthy ({row['Name']}: {problem}). The end of its log:\n{log}")
    return "\n".join(descriptions).rstrip()
