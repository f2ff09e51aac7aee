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
from rqstack.settings.loader import PREFIX, SecretStr, SettingsBase, declared_settings, group, load
from rqstack.settings.sources import framework_settings


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
MaybeSecret = SecretStr | None
Port = Annotated[int, Meta(ge=1, le=65535)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_redis = group("Redis")
_jobs = group("Jobs")
_workers = group("Workers")
_store = group("Another message store than RQ's queues")
_logs = group("Logs")
_secrets = group("Secrets: `make start` writes random ones into .env")
_containers = group("Images and limits of the containers")
_ports = group("Ports, all on 127.0.0.1")


class Settings(SettingsBase, frozen=True):
    """What a process of rqstack needs to know: producers, workers, scheduler and commands alike."""

    redis_url: Annotated[RedisUrl, _redis("Where Redis is.")] = field(default=REDIS_URL, name="REDIS_URL")
    redis_username: Annotated[str | None, _redis("The ACL user, where REDIS_URL names none.")] = field(
        default=None, name="REDIS_USERNAME"
    )
    redis_password: Annotated[MaybeSecret, _redis("Its password, where REDIS_URL has none.")] = field(
        default=None, name="REDIS_PASSWORD"
    )

    secret_key: Annotated[
        MaybeSecret, _jobs("Signs job payloads. Several, comma-separated: the first signs, all verify.")
    ] = None
    serializer: Annotated[Literal["pickle", "json"], _jobs("How arguments and results are stored.")] = "pickle"
    tasks_path: Annotated[Path, _jobs("The folder of task projects, from the project's root.")] = Path("tasks")
    projects: Annotated[Names, _jobs("Projects of that folder to use; empty for all.")] = ()
    reload: Annotated[bool, _jobs("1 replaces horses when a file of the task code is saved, for development.")] = False
    modules: Annotated[Names, _jobs("Further modules with tasks, by dotted name.")] = ()
    allow_unregistered: Annotated[
        bool, _jobs("1 lets workers run any importable function, for plain RQ producers.")
    ] = False
    job_timeout: Annotated[int, _jobs("Seconds a job may run, where its task does not say.", ge=1)] = 180
    result_ttl: Annotated[int, _jobs("Seconds a result is kept; -1 for ever.", ge=-1)] = 500
    failure_ttl: Annotated[int, _jobs("Seconds a failed job is kept; -1 for ever.", ge=-1)] = 31_536_000

    queues: Annotated[QueueNames, _workers("Queues of the worker service, in order of priority.")] = (
        "short-running",
        "default",
    )
    long_queues: Annotated[QueueNames, _workers("Queues of the long-worker service.")] = ("long-running",)
    processes: Annotated[int, _workers("Jobs that one worker runs at once, each in its own process.", ge=1, le=512)] = 1
    grace: Annotated[int, _workers("Seconds a worker's jobs get to end when it is told to stop.", ge=1)] = 30
    heartbeat: Annotated[float, _workers("Seconds between a worker's heartbeats.", gt=0, le=60)] = 5
    dead_after: Annotated[
        float,
        _workers("Seconds without a heartbeat after which a worker's jobs run again; at least two heartbeats.", ge=2),
    ] = DEAD_AFTER
    max_jobs: Annotated[
        Positive | None,
        _workers("Jobs after which a fresh horse replaces one (`--max-jobs` ends the worker); empty for never."),
    ] = None
    max_rss: Annotated[Positive | None, _workers("MiB of memory above which a horse is replaced after its job.")] = None
    max_crashes: Annotated[int, _workers("Times a job may kill its horse before it is failed.", ge=1)] = 3

    queue_backend: Annotated[
        str | None,
        _store(
            "Dotted path of a queue class that carries task calls in place of RQ; empty for RQ.", also="QUEUE_BACKEND"
        ),
    ] = None
    queue_connection: Annotated[
        str,
        _store(
            "What that class connects to: host:port:db for Redis, a URL for a database; empty for its default.",
            also="QUEUE_CONNECTION",
        ),
    ] = ""
    database_url: Annotated[SecretStr, _store("The database; a relative SQLite path is below the home.")] = SecretStr(
        "sqlite:///var/rqstack.db"
    )
    preload: Annotated[
        Names, _store("Modules, or functions as module:function, that a worker loads before it forks.")
    ] = ()
    django_settings_module: Annotated[str | None, _store("Django's settings; set, workers load the site.")] = field(
        default=None, name="DJANGO_SETTINGS_MODULE"
    )

    log_level: Annotated[LogLevel, _logs("Least level that is logged.")] = "INFO"
    log_format: Annotated[Literal["text", "json"], _logs("text for people, json for log collectors.")] = "text"

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


class StackSettings(SettingsBase, frozen=True, rename="upper"):
    """What `make start` and the compose files need besides: images, ports, limits and the secrets of each role."""

    redis_admin_password: Annotated[MaybeSecret, _secrets("Redis user `admin`: the commands a person types.")] = None
    redis_producer_password: Annotated[MaybeSecret, _secrets("Redis user `producer`: enqueues, reads results.")] = None
    redis_worker_password: Annotated[MaybeSecret, _secrets("Redis user `worker`: workers and the scheduler.")] = None
    redis_exporter_password: Annotated[MaybeSecret, _secrets("Redis user `exporter`: metrics; reads only.")] = None
    postgres_password: Annotated[MaybeSecret, _secrets("PostgreSQL user `rqstack`.")] = None
    dashboard_password: Annotated[MaybeSecret, _secrets("Login of the jobs web page.")] = None
    grafana_password: Annotated[MaybeSecret, _secrets("Login of Grafana's user `admin`.")] = None
    dashboard_username: Annotated[str, _secrets("User name of the jobs web page.")] = "admin"

    redis_image: Annotated[str, _containers("Redis.")] = "redis:8-alpine"
    python_image: Annotated[str, _containers("What rqstack's own images are built on.")] = "python:3.13-slim"
    postgres_image: Annotated[str, _containers("PostgreSQL.")] = "postgres:17-alpine"
    image: Annotated[str, _containers("The name of rqstack's own image.")] = field(
        default="rqstack/worker:local", name="RQSTACK_IMAGE"
    )
    tasks_image: Annotated[str, _containers("The name of the shared package image.")] = field(
        default="rqstack/tasks:local", name="RQSTACK_TASKS_IMAGE"
    )
    tasks_outside: Annotated[
        Names, _containers("Task projects outside this folder: paths of project folders, Git checkouts or wheels.")
    ] = ()
    pull_timeout: Annotated[
        float, _containers("Seconds that pulling images may take before they are built from Debian's packages.", gt=0)
    ] = field(default=300, name="RQSTACK_PULL_TIMEOUT")
    start_timeout: Annotated[int, _containers("Seconds that services get to be healthy.", ge=1)] = field(
        default=120, name="RQSTACK_START_TIMEOUT"
    )
    keep_releases: Annotated[int, _containers("Releases of task code that are kept, to roll back to.", ge=2)] = field(
        default=5, name="RQSTACK_KEEP_RELEASES"
    )
    redis_maxmemory: Annotated[str, _containers("Memory for data; a full Redis refuses new jobs.")] = "512mb"
    redis_memory: Annotated[str, _containers("Limit of Redis's container, about twice REDIS_MAXMEMORY.")] = "1g"
    redis_cpus: Annotated[float, _containers("Processors that Redis may use.", gt=0)] = 1
    postgres_memory: Annotated[str, _containers("Memory of PostgreSQL.")] = "512m"
    postgres_cpus: Annotated[float, _containers("Processors of PostgreSQL.", gt=0)] = 1
    worker_memory: Annotated[str, _containers("Memory of one worker.")] = "1g"
    worker_cpus: Annotated[float, _containers("Processors of one worker.", gt=0)] = 1
    worker_pids: Annotated[int, _containers("Processes and threads of one worker.", ge=16)] = 256
    service_memory: Annotated[str, _containers("Memory of each small service, such as the scheduler.")] = "256m"
    service_cpus: Annotated[float, _containers("Processors of each small service.", gt=0)] = 0.5
    service_pids: Annotated[int, _containers("Processes and threads of each small service.", ge=8)] = 64
    prometheus_image: Annotated[str, _containers("Prometheus.")] = "prom/prometheus:v3.5.0"
    alertmanager_image: Annotated[str, _containers("Alertmanager.")] = "prom/alertmanager:v0.28.1"
    grafana_image: Annotated[str, _containers("Grafana.")] = "grafana/grafana:12.2.0"
    rq_exporter_image: Annotated[str, _containers("The name of rq-exporter's image.")] = "rqstack/rq-exporter:local"
    dashboard_image: Annotated[str, _containers("The name of the jobs page's image.")] = "rqstack/dashboard:local"
    monitor_memory: Annotated[str, _containers("Memory of Prometheus, and of Grafana.")] = "512m"
    monitor_cpus: Annotated[float, _containers("Processors of Prometheus, and of Grafana.", gt=0)] = 1
    monitor_pids: Annotated[int, _containers("Processes and threads of Prometheus, and of Grafana.", ge=64)] = 256
    prometheus_retention: Annotated[str, _containers("How long Prometheus keeps its data.")] = "15d"
    rq_exporter_log_level: Annotated[LogLevel, _containers("Least level that rq-exporter logs.")] = "INFO"
    tmp_size: Annotated[str, _containers("Size of /tmp, in memory, of a container.")] = "64m"
    log_max_size: Annotated[str, _containers("Size at which a log is rotated.")] = "10m"
    log_max_files: Annotated[int, _containers("Log files kept a container.", ge=1)] = 3
    health_interval: Annotated[str, _containers("Time between health checks.")] = "5s"

    redis_port: Annotated[Port, _ports("Redis.")] = 6379
    postgres_port: Annotated[Port, _ports("PostgreSQL.")] = 5432
    rq_exporter_port: Annotated[Port, _ports("rq-exporter.")] = 9726
    prometheus_port: Annotated[Port, _ports("Prometheus.")] = 9090
    alertmanager_port: Annotated[Port, _ports("Alertmanager.")] = 9093
    grafana_port: Annotated[Port, _ports("Grafana.")] = 3000
    dashboard_port: Annotated[Port, _ports("The jobs web page.")] = 9181


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
