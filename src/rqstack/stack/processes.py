"""The processes of a local stack: how each is started, as which Redis user, and how to ask it whether it is well.

The lines of Procfile and Procfile-monitor name them; docker-compose.yml and docker-compose-monitor.yml run the same.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rqstack.errors import RqstackError
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.loader import explicit_values
from rqstack.stack import dependencies, env, ports

SPACE_NEEDED = 64 * 2**20
"""Bytes that must be free on the disk of Redis's append-only file before Redis is started."""


class UnknownProcess(RqstackError):
    """A name that is no process of the stack; the message lists those that are."""


class DiskFull(RqstackError):
    """There is no room for Redis's append-only file."""


@dataclass(frozen=True)
class Process:
    """How one process of the stack is run.

    Args:
        command: Makes its command line. It may prepare files, and choose a port; called with the stack's home.
        role: The Redis user it signs in as; None for one that does not.
        health: Makes the arguments of `rqstack health`, or the URL that answers when it is well.
    """

    command: Callable[[Path], Sequence[str]]
    role: str | None
    health: Callable[[], Sequence[str] | str]


def rqstack(*arguments: str) -> list[str]:
    """The command line of our own command, with this interpreter."""
    return [sys.executable, "-m", "rqstack.cli.main", *arguments]


def say(line: str) -> None:
    """Tell whoever reads the log."""
    print(line, flush=True)


def redis(root: Path) -> Sequence[str]:
    """Write Redis's configuration and where it will be, and return its command line.

    Raises:
        DiskFull: Its append-only file would have no room.
        PortInUse: REDIS_PORT was set, and something else listens there.
        InstallFailed: There is no server, and none could be installed.
    """
    folder = root / "var" / "redis"
    env.remove_stack_env(root)  # a stack that was killed left it, and its port must not pass for a person's choice
    env.setup(root)
    if (free := shutil.disk_usage(folder).free) < SPACE_NEEDED:
        raise DiskFull(
            f"{folder}: only {free >> 20} MiB are free on its disk, and Redis's append-only file needs "
            f"{SPACE_NEEDED >> 20}. Free some space, then start again."
        )
    settings = load(StackSettings)
    port = ports.choose("REDIS_PORT", settings.redis_port, given="redis_port" in explicit_values(StackSettings))
    if port != settings.redis_port:
        say(f"Port {settings.redis_port} is taken, so Redis listens on {port}.")
    own = {
        "bind": ports.HOST,
        "port": str(port),
        "dir": _quoted(folder),
        "aclfile": _quoted(folder / "users.acl"),
    }
    # The rest as in compose. Not by `include`: Redis changes to each `dir` as it reads it.
    common = (root / "services" / "redis" / "redis.conf").read_text().splitlines()
    lines = [line for line in common if line and line.split()[0] not in own]
    lines += [f"{name} {value}" for name, value in own.items()]
    configuration = folder / "redis.conf"
    env.write(configuration, "\n".join(lines) + "\n", 0o600)
    server = dependencies.redis_server(root, say)
    env.write_stack_env("local", {"REDIS_URL": f"redis://{ports.HOST}:{port}/0", "REDIS_PORT": port}, root)
    return [server, str(configuration)]


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _prometheus(root: Path) -> Sequence[str]:
    program = shutil.which("prometheus")
    if program is None:
        raise RqstackError("prometheus is not on PATH. Install it, or leave this process out.")
    settings = load(StackSettings)
    folder = root / "var" / "prometheus"
    targets = folder / "targets"
    targets.mkdir(parents=True, exist_ok=True)
    configuration = folder / "prometheus.yml"
    env.write(configuration, (root / "prometheus" / "prometheus.yml").read_text(), 0o644)
    if not (folder / "rules").is_symlink():
        (folder / "rules").symlink_to(root / "prometheus" / "rules")
    places = {"rq": [settings.rq_exporter_port], "prometheus": [settings.prometheus_port], "alertmanager": []}
    for name, numbers in places.items():
        found = [{"targets": [f"{ports.HOST}:{number}" for number in numbers]}]
        env.write(targets / f"{name}.json", json.dumps(found), 0o644)
    return [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={ports.HOST}:{settings.prometheus_port}",
        "--log.level=warn",
    ]


def _exporter(root: Path) -> Sequence[str]:
    python = dependencies.environment(root, "exporter", say) / "python"
    return [str(python), "-m", "rqstack.metrics.rq_exporter"]


def _dashboard(root: Path) -> Sequence[str]:
    python = dependencies.environment(root, "dashboard", say) / "python"
    return [str(python), "-m", "rqstack.cli.main", "dashboard"]


def _url(path: str, port: Callable[[StackSettings], int]) -> Callable[[], str]:
    return lambda: f"http://{ports.HOST}:{port(load(StackSettings))}{path}"


def _listened(queues: Sequence[str]) -> list[str]:
    return ["--worker", *(part for queue in queues for part in ("--queue", queue))]


PROCESSES: dict[str, Process] = {
    "redis": Process(redis, None, list),
    "worker": Process(lambda _: rqstack("worker", "run"), "worker", lambda: _listened(load(Settings).queues)),
    "long-worker": Process(
        lambda _: rqstack("worker", "run", *load(Settings).long_queues),
        "worker",
        lambda: _listened(load(Settings).long_queues),
    ),
    "scheduler": Process(lambda _: rqstack("scheduler"), "worker", lambda: ["--scheduler"]),
    "rq-exporter": Process(_exporter, "exporter", _url("/metrics", lambda settings: settings.rq_exporter_port)),
    "prometheus": Process(_prometheus, None, _url("/-/ready", lambda settings: settings.prometheus_port)),
    "dashboard": Process(_dashboard, "producer", _url("/", lambda settings: settings.dashboard_port)),
}


def get(name: str) -> Process:
    """The process of a name, with or without honcho's number: `worker` or `worker.2`.

    Raises:
        UnknownProcess: There is none.
    """
    plain = name.partition(".")[0]
    if plain not in PROCESSES:
        raise UnknownProcess(f"{name}: no such process. There are {', '.join(PROCESSES)}.")
    return PROCESSES[plain]


def environment(root: Path, process: Process, grace: float) -> dict[str, str]:
    """The environment a process of the stack is given.

    Args:
        root: The stack's home.
        process: Whose it is.
        grace: Seconds it has to end; a worker puts back by then what it has not ended.
    """
    given = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
    given["RQSTACK_HOME"] = str(root)
    given["RQSTACK_GRACE"] = str(max(1, min(load(Settings).grace, int(grace))))
    given["PYTHONUNBUFFERED"] = "1"
    if process.role is not None:
        given["REDIS_URL"] = env.read_stack_env(root).get("REDIS_URL", load(Settings).redis_url)
        given["REDIS_USERNAME"] = process.role
        given["REDIS_PASSWORD_FILE"] = str(root / "var" / "secrets" / f"redis_{process.role}_password")
    return given
