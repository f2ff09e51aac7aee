"""A real stack under compose."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rqstack.stack import generated
from support.paths import ROOT
from support.ports import free_ports
from support.processes import environment_without, rqstack_command
from support.waiting import until

T = TypeVar("T")
PRODUCER = ROOT / "tests" / "compose" / "producer.py"
PARTS = (
    ".dockerignore",
    "Procfile",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "docker-compose.yml",
    "docker-compose-monitor.yml",
)
FOLDERS = ("deploy", "grafana", "prometheus", "requirements", "services", "src", "tasks")
PORTS = ("REDIS", "POSTGRES", "RQ_EXPORTER", "PROMETHEUS", "ALERTMANAGER", "GRAFANA", "DASHBOARD")


def engine_answers() -> bool:
    try:
        for command in (["docker", "info"], ["docker", "compose", "version"]):
            if subprocess.run(command, capture_output=True, timeout=20, check=False).returncode:
                return False
    except (OSError, subprocess.TimeoutExpired):
        return False
    return True


class ComposeStack:
    """A stack with a home of its own.

    Args:
        home: An empty folder; gets a copy of the checkout.
        settings: Lines of its `.env`, beside free ports.
        environment: Of every command, for example another DOCKER_HOST.
        as_cloned: Leave project, image names and ports to `make setup`, as a person does.
    """

    def __init__(
        self,
        home: Path,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        as_cloned: bool = False,
    ) -> None:
        self.home = home
        self.project = f"rqs-test-{uuid.uuid4().hex[:8]}"
        self.environment = environment_without("RQSTACK_", "REDIS_")
        self.environment |= {"RQSTACK_HOME": str(home), **(environment or {})}
        for name in PARTS:
            shutil.copy2(ROOT / name, home / name)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.rqstack("stack", "setup")
        if as_cloned:
            self.project = generated.read(home)["COMPOSE_PROJECT_NAME"]
            return
        given = {
            "COMPOSE_PROJECT_NAME": self.project,
            "RQSTACK_IMAGE": f"rqstack/worker:{self.project}",
            "RQSTACK_TASKS_IMAGE": f"rqstack/tasks:{self.project}",
            **{f"{name}_PORT": str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)},
            **(settings or {}),
        }
        with (home / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in given.items())

    def run(self, *command: str, given: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, input=given, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def rqstack(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line of this machine, which finds the stack by itself."""
        return self.run(*rqstack_command(*arguments), check=check)

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`docker compose` as a person types it in the home."""
        return self.run("docker", "compose", *arguments, check=check)

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self.run("docker", *arguments, check=check).stdout

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.rqstack("stack", "start", "--mode", "compose", *arguments)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What `docker inspect` says of each container of a service; default: of all."""
        filters = [f"label=com.docker.compose.project={self.project}"]
        filters += [f"label=com.docker.compose.service={service}"] if service else []
        ids = self.docker("ps", "--all", "--quiet", *(part for each in filters for part in ("--filter", each))).split()
        found = json.loads(self.docker("inspect", *ids)) if ids else []
        assert isinstance(found, list)
        return found

    def healthy(self, service: str) -> int:
        """How many containers of a service are healthy."""
        states = [container["State"] for container in self.containers(service)]
        return sum(state["Running"] and state.get("Health", {}).get("Status") == "healthy" for state in states)

    def enqueue(self, task: str, calls: Sequence[Sequence[Any]]) -> list[str]:
        """Enqueue calls of a task by a producer; returns the ids."""
        found = json.loads(self.produce("enqueue", task, given=calls))
        assert len(found) == len(calls)
        return [str(identity) for identity in found]

    def outcomes(self, ids: Sequence[str]) -> dict[str, list[Any]]:
        """[status, result, worker name] of each job."""
        found = json.loads(self.produce("outcomes", given=ids))
        assert isinstance(found, dict)
        return found

    def produce(self, *arguments: str, given: Any) -> str:
        return self.run(sys.executable, str(PRODUCER), *arguments, given=json.dumps(given)).stdout

    def wait(self, ids: Sequence[str], seconds: float = 90) -> dict[str, list[Any]]:
        """Wait until every job has ended, and return the outcomes."""
        self.rqstack("wait", "--timeout", str(seconds), *ids, check=False)
        return self.outcomes(ids)

    def until(self, condition: Callable[[], T | None], seconds: float = 60) -> T:
        """Wait until a condition is true, and return its value."""
        return until(condition, seconds, pause=0.2)

    def show(self) -> str:
        """What a person would look at first: the containers and the end of their logs."""
        shown = self.compose("ps", "--all", check=False).stdout
        return shown + self.compose("logs", "--no-color", "--tail=40", check=False).stdout

    def close(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout=5", check=False)
        for name in ("worker", "tasks", "rq-exporter", "dashboard"):
            self.docker("image", "rm", f"rqstack/{name}:{self.project}", check=False)
        # Those that another build has taken the name of.
        mine = f"label=com.docker.compose.project={self.project}"
        self.docker("image", "prune", "--force", "--filter", mine, check=False)
