"""Every setting, once: typed, with its default and one line of why.

A value comes from the first of: the process environment; for a secret, the file that `<NAME>_FILE` names;
`var/stack.env` (what the running stack wrote about itself: its ports and mode); `.env`; a framework's settings; the
default below.
`.env.example` is written from this module by `rqstack stack env-example`; a test keeps the two the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Meta, field

from rqstack.errors import SettingsError
from rqstack.settings.defaults import DEAD_AFTER, REDIS_URL
from rqstack.settings.loader import PREFIX, SecretStr, SettingsBase, declared_settings, load
from rqstack.settings.sources import framework_settings

__all__ = ["SecretStr", "Settings", "StackSettings", "get_settings", "load"]


def _check_redis_url(value: str) -> None:
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("a URL that starts with redis://, rediss:// or unix://")
    try:
        parts = urlsplit(value)
        readable = parts.port != 0
    except ValueError:
        readable = False
    if not readable:
        raise ValueError(
            "a URL with a host that can be read and a port from 1 to 65535 (in a password, write / as %2F, "
            "@ as %40 and : as %3A; or set REDIS_PASSWORD)"
        )
    bases = parse_qs(parts.query).get("db", [])
    if not value.startswith("unix://"):
        bases.append(unquote(parts.path).strip("/") or "0")
    if not all(base.isascii() and base.isdecimal() for base in bases):
        raise ValueError("a URL whose database is a number, 0 or more")


RedisUrl = Annotated[str, Meta(extra={"check": _check_redis_url})]
Names = tuple[str, ...]
QueueNames = Annotated[Names, Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class Settings(SettingsBase, frozen=True):
    """What a process of rqstack needs to know: producers, workers, scheduler and commands alike."""

    # -- Redis
    redis_url: Annotated[RedisUrl, Meta(description="Where Redis is.")] = field(default=REDIS_URL, name="REDIS_URL")
    redis_username: Annotated[str | None, Meta(description="The ACL user, where REDIS_URL names none.")] = field(
        default=None, name="REDIS_USERNAME"
    )
    redis_password: Annotated[SecretStr | None, Meta(description="Its password, where REDIS_URL has none.")] = field(
        default=None, name="REDIS_PASSWORD"
    )

    # -- Jobs
    secret_key: Annotated[
        SecretStr | None, Meta(description="Signs job payloads. Several, comma-separated: the first signs, all verify.")
    ] = None
    serializer: Annotated[Literal["pickle", "json"], Meta(description="How arguments and results are stored.")] = (
        "pickle"
    )
    tasks_path: Annotated[Path, Meta(description="The folder of task projects, from the project's root.")] = Path(
        "tasks"
    )
    projects: Annotated[Names, Meta(description="Projects of that folder to use; empty for all.")] = ()
    reload: Annotated[
        bool, Meta(description="1 replaces horses when a file of the task code is saved, for development.")
    ] = False
    modules: Annotated[Names, Meta(description="Further modules with tasks, by dotted name.")] = ()
    allow_unregistered: Annotated[
        bool, Meta(description="1 lets workers run any importable function, for plain RQ producers.")
    ] = False
    job_timeout: Annotated[int, Meta(ge=1, description="Seconds a job may run, where its task does not say.")] = 180
    result_ttl: Annotated[int, Meta(ge=-1, description="Seconds a result is kept; -1 for ever.")] = 500
    failure_ttl: Annotated[int, Meta(ge=-1, description="Seconds a failed job is kept; -1 for ever.")] = 31_536_000

    # -- Workers
    queues: Annotated[QueueNames, Meta(description="Queues of the worker service, in order of priority.")] = (
        "short-running",
        "default",
    )
    long_queues: Annotated[QueueNames, Meta(description="Queues of the long-worker service.")] = ("long-running",)
    processes: Annotated[
        int, Meta(ge=1, le=512, description="Jobs that one worker runs at once, each in its own process.")
    ] = 1
    grace: Annotated[int, Meta(ge=1, description="Seconds a worker's jobs get to end when it is told to stop.")] = 30
    heartbeat: Annotated[float, Meta(gt=0, le=60, description="Seconds between a worker's heartbeats.")] = 5
    dead_after: Annotated[
        float,
        Meta(
            ge=2,
            description="Seconds without a heartbeat after which a worker's jobs run again; at least two heartbeats.",
        ),
    ] = DEAD_AFTER
    max_jobs: Annotated[
        Positive | None,
        Meta(
            description="Jobs after which a fresh horse replaces one (`--max-jobs` ends the worker); empty for never."
        ),
    ] = None
    max_rss: Annotated[
        Positive | None, Meta(description="MiB of memory above which a horse is replaced after its job.")
    ] = None
    max_crashes: Annotated[int, Meta(ge=1, description="Times a job may kill its horse before it is failed.")] = 3

    # -- Another message store than RQ's queues
    queue_backend: Annotated[
        str | None,
        Meta(
            description="Dotted path of a queue class that carries task calls in place of RQ; empty for RQ.",
            extra={"also": "QUEUE_BACKEND"},
        ),
    ] = None
    queue_connection: Annotated[
        str,
        Meta(
            description=(
                "What that class connects to: host:port:db for Redis, a URL for a database; empty for its default."
            ),
            extra={"also": "QUEUE_CONNECTION"},
        ),
    ] = ""
    database_url: Annotated[SecretStr, Meta(description="The database; a relative SQLite path is below the home.")] = (
        SecretStr("sqlite:///var/rqstack.db")
    )
    preload: Annotated[
        Names, Meta(description="Modules, or functions as module:function, that a worker loads before it forks.")
    ] = ()
    django_settings_module: Annotated[
        str | None, Meta(description="Django's settings; set, workers load the site.")
    ] = field(default=None, name="DJANGO_SETTINGS_MODULE")

    # -- Logs
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="Least level that is logged.")
    ] = "INFO"
    log_format: Annotated[Literal["text", "json"], Meta(description="text for people, json for log collectors.")] = (
        "text"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        # Else a living worker counts as dead, and its jobs run twice.
        if self.dead_after < 2 * self.heartbeat:
            raise SettingsError(
                f"RQSTACK_DEAD_AFTER: {self.dead_after:g} is not allowed: should be at least twice "
                f"RQSTACK_HEARTBEAT, which is {self.heartbeat:g}."
            )

    def secret_keys(self) -> tuple[bytes, ...]:
        """The signing keys, the one that signs first; empty if there is none."""
        if self.secret_key is None:
            return ()
        return tuple(key.strip().encode() for key in self.secret_key.get_secret_value().split(",") if key.strip())


class StackSettings(SettingsBase, frozen=True):
    """What `make start` and the compose files need besides: images, ports, limits and the secrets of each role."""

    # -- Secrets: `make start` writes random ones into .env
    redis_admin_password: Annotated[
        SecretStr | None, Meta(description="Redis user `admin`: the commands a person types.")
    ] = field(default=None, name="REDIS_ADMIN_PASSWORD")
    redis_producer_password: Annotated[
        SecretStr | None, Meta(description="Redis user `producer`: enqueues, reads results.")
    ] = field(default=None, name="REDIS_PRODUCER_PASSWORD")
    redis_worker_password: Annotated[
        SecretStr | None, Meta(description="Redis user `worker`: workers and the scheduler.")
    ] = field(default=None, name="REDIS_WORKER_PASSWORD")
    redis_exporter_password: Annotated[
        SecretStr | None, Meta(description="Redis user `exporter`: metrics; reads only.")
    ] = field(default=None, name="REDIS_EXPORTER_PASSWORD")
    postgres_password: Annotated[SecretStr | None, Meta(description="PostgreSQL user `rqstack`.")] = field(
        default=None, name="POSTGRES_PASSWORD"
    )
    dashboard_password: Annotated[SecretStr | None, Meta(description="Login of the jobs web page.")] = field(
        default=None, name="DASHBOARD_PASSWORD"
    )
    grafana_password: Annotated[SecretStr | None, Meta(description="Login of Grafana's user `admin`.")] = field(
        default=None, name="GRAFANA_PASSWORD"
    )
    dashboard_username: Annotated[str, Meta(description="User name of the jobs web page.")] = field(
        default="admin", name="DASHBOARD_USERNAME"
    )

    # -- Images and limits of the containers
    redis_image: Annotated[str, Meta(description="Redis.")] = field(default="redis:8-alpine", name="REDIS_IMAGE")
    python_image: Annotated[str, Meta(description="What rqstack's own images are built on.")] = field(
        default="python:3.13-slim", name="PYTHON_IMAGE"
    )
    postgres_image: Annotated[str, Meta(description="PostgreSQL.")] = field(
        default="postgres:17-alpine", name="POSTGRES_IMAGE"
    )
    image: Annotated[str, Meta(description="The name of rqstack's own image.")] = "rqstack/worker:local"
    tasks_image: Annotated[str, Meta(description="The name of the shared package image.")] = "rqstack/tasks:local"
    tasks_outside: Annotated[
        Names, Meta(description="Task projects outside this folder: paths of project folders, Git checkouts or wheels.")
    ] = field(default=(), name="TASKS_OUTSIDE")
    pull_timeout: Annotated[
        float,
        Meta(gt=0, description="Seconds that pulling images may take before they are built from Debian's packages."),
    ] = 300
    start_timeout: Annotated[int, Meta(ge=1, description="Seconds that services get to be healthy.")] = 120
    keep_releases: Annotated[int, Meta(ge=2, description="Releases of task code that are kept, to roll back to.")] = 5
    redis_maxmemory: Annotated[str, Meta(description="Memory for data; a full Redis refuses new jobs.")] = field(
        default="512mb", name="REDIS_MAXMEMORY"
    )
    redis_memory: Annotated[str, Meta(description="Limit of Redis's container, about twice REDIS_MAXMEMORY.")] = field(
        default="1g", name="REDIS_MEMORY"
    )
    redis_cpus: Annotated[float, Meta(gt=0, description="Processors that Redis may use.")] = field(
        default=1, name="REDIS_CPUS"
    )
    postgres_memory: Annotated[str, Meta(description="Memory of PostgreSQL.")] = field(
        default="512m", name="POSTGRES_MEMORY"
    )
    postgres_cpus: Annotated[float, Meta(gt=0, description="Processors of PostgreSQL.")] = field(
        default=1, name="POSTGRES_CPUS"
    )
    worker_memory: Annotated[str, Meta(description="Memory of one worker.")] = field(default="1g", name="WORKER_MEMORY")
    worker_cpus: Annotated[float, Meta(gt=0, description="Processors of one worker.")] = field(
        default=1, name="WORKER_CPUS"
    )
    worker_pids: Annotated[int, Meta(ge=16, description="Processes and threads of one worker.")] = field(
        default=256, name="WORKER_PIDS"
    )
    service_memory: Annotated[str, Meta(description="Memory of each small service, such as the scheduler.")] = field(
        default="256m", name="SERVICE_MEMORY"
    )
    service_cpus: Annotated[float, Meta(gt=0, description="Processors of each small service.")] = field(
        default=0.5, name="SERVICE_CPUS"
    )
    service_pids: Annotated[int, Meta(ge=8, description="Processes and threads of each small service.")] = field(
        default=64, name="SERVICE_PIDS"
    )
    prometheus_image: Annotated[str, Meta(description="Prometheus.")] = field(
        default="prom/prometheus:v3.5.0", name="PROMETHEUS_IMAGE"
    )
    alertmanager_image: Annotated[str, Meta(description="Alertmanager.")] = field(
        default="prom/alertmanager:v0.28.1", name="ALERTMANAGER_IMAGE"
    )
    grafana_image: Annotated[str, Meta(description="Grafana.")] = field(
        default="grafana/grafana:12.2.0", name="GRAFANA_IMAGE"
    )
    rq_exporter_image: Annotated[str, Meta(description="The name of rq-exporter's image.")] = field(
        default="rqstack/rq-exporter:local", name="RQ_EXPORTER_IMAGE"
    )
    dashboard_image: Annotated[str, Meta(description="The name of the jobs page's image.")] = field(
        default="rqstack/dashboard:local", name="DASHBOARD_IMAGE"
    )
    monitor_memory: Annotated[str, Meta(description="Memory of Prometheus, and of Grafana.")] = field(
        default="512m", name="MONITOR_MEMORY"
    )
    monitor_cpus: Annotated[float, Meta(gt=0, description="Processors of Prometheus, and of Grafana.")] = field(
        default=1, name="MONITOR_CPUS"
    )
    monitor_pids: Annotated[int, Meta(ge=64, description="Processes and threads of Prometheus, and of Grafana.")] = (
        field(default=256, name="MONITOR_PIDS")
    )
    prometheus_retention: Annotated[str, Meta(description="How long Prometheus keeps its data.")] = field(
        default="15d", name="PROMETHEUS_RETENTION"
    )
    rq_exporter_log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Meta(description="Least level that rq-exporter logs.")
    ] = field(default="INFO", name="RQ_EXPORTER_LOG_LEVEL")
    tmp_size: Annotated[str, Meta(description="Size of /tmp, in memory, of a container.")] = field(
        default="64m", name="TMP_SIZE"
    )
    log_max_size: Annotated[str, Meta(description="Size at which a log is rotated.")] = field(
        default="10m", name="LOG_MAX_SIZE"
    )
    log_max_files: Annotated[int, Meta(ge=1, description="Log files kept a container.")] = field(
        default=3, name="LOG_MAX_FILES"
    )
    health_interval: Annotated[str, Meta(description="Time between health checks.")] = field(
        default="5s", name="HEALTH_INTERVAL"
    )

    # -- Ports, all on 127.0.0.1
    redis_port: Annotated[Port, Meta(description="Redis.")] = field(default=6379, name="REDIS_PORT")
    postgres_port: Annotated[Port, Meta(description="PostgreSQL.")] = field(default=5432, name="POSTGRES_PORT")
    rq_exporter_port: Annotated[Port, Meta(description="rq-exporter.")] = field(default=9726, name="RQ_EXPORTER_PORT")
    prometheus_port: Annotated[Port, Meta(description="Prometheus.")] = field(default=9090, name="PROMETHEUS_PORT")
    alertmanager_port: Annotated[Port, Meta(description="Alertmanager.")] = field(
        default=9093, name="ALERTMANAGER_PORT"
    )
    grafana_port: Annotated[Port, Meta(description="Grafana.")] = field(default=3000, name="GRAFANA_PORT")
    dashboard_port: Annotated[Port, Meta(description="The jobs web page.")] = field(default=9181, name="DASHBOARD_PORT")


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        SettingsError: as `load`.
    """
    return load(Settings)


def set_framework_settings(values: Mapping[str, Any]) -> None:
    """Take settings from a web framework, such as Django's settings module. They win over the defaults only.

    Args:
        values: By environment variable, with or without the prefix `RQSTACK_`. They replace those of an earlier call.

    Raises:
        SettingsError: A name is not a setting.
    """
    known = {setting.name for setting in declared_settings(Settings).values()}
    named = {name if name in known else f"{PREFIX}{name}": value for name, value in values.items()}
    if unknown := sorted(set(named) - known):
        raise SettingsError(f"{unknown[0]} is not a setting of rqstack. The settings are: {', '.join(sorted(known))}.")
    framework_settings.clear()
    framework_settings.update(named)
    get_settings.cache_clear()
