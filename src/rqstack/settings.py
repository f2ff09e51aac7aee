"""Every setting, once: typed, with its default and one line of why.

A value comes from the first of: the process environment, `var/stack.env` (what the running stack wrote about itself:
its ports and mode), `.env`, the default below. A secret may also come from a file named by `<NAME>_FILE`.
`.env.example` is written from this module by `rqstack stack env-example`; a test keeps the two the same.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from rqstack.defaults import DEAD_AFTER, REDIS_URL
from rqstack.errors import SettingsError
from rqstack.home import home

__all__ = ["Settings", "StackSettings", "env_name", "get_settings", "home", "load"]

PREFIX = "RQSTACK_"
_T = TypeVar("_T", bound="_Base")


def _redis_url(value: str) -> str:
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("a URL that starts with redis://, rediss:// or unix://")
    try:
        parts = urlsplit(value)
        readable = parts.port != 0
    except ValueError:
        readable = False
    if not readable:
        raise ValueError("a URL with a host that can be read and a port from 1 to 65535")
    bases = parse_qs(parts.query).get("db", [])
    if not value.startswith("unix://"):
        bases.append(unquote(parts.path).strip("/") or "0")
    if not all(base.isascii() and base.isdecimal() for base in bases):
        raise ValueError("a URL whose database is a number, 0 or more")
    return value


def _names(value: Any) -> Any:
    """'a, b' to ('a', 'b'); what is not text is left to pydantic."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


RedisUrl = Annotated[str, AfterValidator(_redis_url)]
Names = Annotated[tuple[str, ...], NoDecode]
Port = Annotated[int, Field(ge=1, le=65535)]


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads each SecretStr field from the file that `<NAME>_FILE` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if field.annotation not in (SecretStr, SecretStr | None):
            return None, field_name, False
        name = env_name(field_name, field)
        path = os.environ.get(f"{name}_FILE")
        if not path:
            return None, field_name, False
        try:
            # Under the key by which the other sources give it, so that theirs and this are one.
            key = name if field.validation_alias else field_name
            return Path(path).read_text().strip(), key, False
        except OSError as error:
            raise SettingsError(
                f"{name}_FILE: cannot read {path}: {error.strerror}. Set it to a readable file."
            ) from error

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found


_site_defaults: dict[str, Any] = {}


class _SiteDefaults(PydanticBaseSettingsSource):
    """What a framework's own settings say, used where the environment and the files say nothing."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return _site_defaults.get(env_name(field_name, field)), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = ((name, self.get_field_value(field, name)[0]) for name, field in self.settings_cls.model_fields.items())
        return {name: value for name, value in found if value is not None}


def set_site_defaults(values: dict[str, Any]) -> None:
    """Take settings from a framework (Django's settings module, say): they win over the defaults only.

    Args:
        values: By environment name, with or without the prefix `RQSTACK_`.

    Raises:
        SettingsError: A name is not a setting.
    """
    known = {env_name(name, field) for name, field in Settings.model_fields.items()}
    named = {key if key in known else f"{PREFIX}{key}": value for key, value in values.items()}
    if unknown := sorted(set(named) - known):
        raise SettingsError(f"{unknown[0]} is not a setting of rqstack. The settings are: {', '.join(sorted(known))}.")
    _site_defaults.clear()
    _site_defaults.update(named)
    get_settings.cache_clear()


class _Base(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", populate_by_name=True, env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls), dotenv_settings, _SiteDefaults(settings_cls)


class Settings(_Base):
    """What a process of rqstack needs to know: producers, workers, scheduler and commands alike."""

    # -- Redis
    redis_url: RedisUrl = Field(REDIS_URL, validation_alias="REDIS_URL", description="Where Redis is.")
    redis_username: str | None = Field(
        None, validation_alias="REDIS_USERNAME", description="The ACL user, where REDIS_URL names none."
    )
    redis_password: SecretStr | None = Field(
        None, validation_alias="REDIS_PASSWORD", description="Its password, where REDIS_URL has none."
    )

    # -- Jobs
    secret_key: SecretStr | None = Field(
        None, description="Signs job payloads. Several, comma-separated: the first signs, all verify."
    )
    serializer: Literal["pickle", "json"] = Field("pickle", description="How arguments and results are stored.")
    tasks_path: Path = Field(Path("tasks"), description="The folder of task projects, from the project's root.")
    projects: Names = Field((), description="Projects of that folder to use; empty for all.")
    reload: bool = Field(False, description="1 replaces horses when a file of the task code is saved, for development.")
    modules: Names = Field((), description="Further modules with tasks, by dotted name.")
    allow_unregistered: bool = Field(
        False, description="1 lets workers run any importable function, for plain RQ producers."
    )
    job_timeout: int = Field(180, ge=1, description="Seconds a job may run, where its task does not say.")
    result_ttl: int = Field(500, ge=-1, description="Seconds a result is kept; -1 for ever.")
    failure_ttl: int = Field(31_536_000, ge=-1, description="Seconds a failed job is kept; -1 for ever.")

    # -- Workers
    queues: Names = Field(
        ("short-running", "default"), description="Queues of the worker service, in order of priority."
    )
    long_queues: Names = Field(("long-running",), description="Queues of the long-worker service.")
    processes: int = Field(1, ge=1, le=512, description="Jobs that one worker runs at once, each in its own process.")
    grace: int = Field(30, ge=1, description="Seconds a worker's jobs get to end when it is told to stop.")
    heartbeat: float = Field(5, gt=0, le=60, description="Seconds between a worker's heartbeats.")
    dead_after: float = Field(
        DEAD_AFTER,
        ge=2,
        description="Seconds without a heartbeat after which a worker's jobs run again; at least twice the heartbeat.",
    )
    max_jobs: int | None = Field(
        None,
        ge=1,
        description="Jobs after which a fresh horse replaces one (`--max-jobs` ends the worker); empty for never.",
    )
    max_rss: int | None = Field(None, ge=1, description="MiB of memory above which a horse is replaced after its job.")
    max_crashes: int = Field(3, ge=1, description="Times a job may kill its horse before it is failed.")

    # -- Another message store than RQ's queues
    queue_backend: str | None = Field(
        None,
        validation_alias=AliasChoices("RQSTACK_QUEUE_BACKEND", "QUEUE_BACKEND"),
        description="Dotted path of a queue class that carries task calls in place of RQ; empty for RQ.",
    )
    queue_connection: str = Field(
        "",
        validation_alias=AliasChoices("RQSTACK_QUEUE_CONNECTION", "QUEUE_CONNECTION"),
        description="What that class connects to: host:port:db for Redis, a URL for a database; empty for its default.",
    )
    database_url: SecretStr = Field(
        SecretStr("sqlite:///var/rqstack.db"), description="The database; a relative SQLite path is below the home."
    )
    preload: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Modules, or functions as module:function, that a worker loads before it forks."
    )
    django_settings_module: str | None = Field(
        None, validation_alias="DJANGO_SETTINGS_MODULE", description="Django's settings; set, workers load the site."
    )

    # -- Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="text for people, json for log collectors.")

    @field_validator("queues", "long_queues", "preload", "projects", "modules", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _names(value)

    @field_validator("queues", "long_queues")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one queue name")
        return value

    @model_validator(mode="after")
    def _heartbeats_in_time(self) -> Self:
        # Else a living worker counts as dead, and its jobs run twice.
        if self.dead_after < 2 * self.heartbeat:
            raise ValueError(
                f"RQSTACK_DEAD_AFTER: {self.dead_after:g} is not allowed: should be at least twice "
                f"RQSTACK_HEARTBEAT, which is {self.heartbeat:g}."
            )
        return self

    def secret_keys(self) -> tuple[bytes, ...]:
        """The signing keys, the one that signs first; empty if there is none."""
        if self.secret_key is None:
            return ()
        return tuple(key.strip().encode() for key in self.secret_key.get_secret_value().split(",") if key.strip())


class StackSettings(_Base):
    """What `make start` and the compose files need besides: images, ports, limits and the secrets of each role."""

    # -- Secrets: `make start` writes random ones into .env
    redis_admin_password: SecretStr | None = Field(
        None, validation_alias="REDIS_ADMIN_PASSWORD", description="Redis user `admin`: the commands a person types."
    )
    redis_producer_password: SecretStr | None = Field(
        None, validation_alias="REDIS_PRODUCER_PASSWORD", description="Redis user `producer`: enqueues, reads results."
    )
    redis_worker_password: SecretStr | None = Field(
        None, validation_alias="REDIS_WORKER_PASSWORD", description="Redis user `worker`: workers and the scheduler."
    )
    redis_exporter_password: SecretStr | None = Field(
        None, validation_alias="REDIS_EXPORTER_PASSWORD", description="Redis user `exporter`: metrics; reads only."
    )
    postgres_password: SecretStr | None = Field(
        None, validation_alias="POSTGRES_PASSWORD", description="PostgreSQL user `rqstack`."
    )
    dashboard_password: SecretStr | None = Field(
        None, validation_alias="DASHBOARD_PASSWORD", description="Login of the jobs web page."
    )
    grafana_password: SecretStr | None = Field(
        None, validation_alias="GRAFANA_PASSWORD", description="Login of Grafana's user `admin`."
    )
    dashboard_username: str = Field(
        "admin", validation_alias="DASHBOARD_USERNAME", description="User name of the jobs web page."
    )

    # -- Images and limits of the containers
    redis_image: str = Field("redis:8-alpine", validation_alias="REDIS_IMAGE", description="Redis.")
    python_image: str = Field(
        "python:3.13-slim", validation_alias="PYTHON_IMAGE", description="What rqstack's own images are built on."
    )
    postgres_image: str = Field("postgres:17-alpine", validation_alias="POSTGRES_IMAGE", description="PostgreSQL.")
    image: str = Field("rqstack/worker:local", description="The name of rqstack's own image.")
    tasks_image: str = Field("rqstack/tasks:local", description="The name of the shared package image.")
    tasks_outside: Names = Field(
        (),
        validation_alias="TASKS_OUTSIDE",
        description="Task projects outside this folder: paths of project folders, Git checkouts or wheels.",
    )
    pull_timeout: float = Field(
        300, gt=0, description="Seconds that pulling images may take before they are built from Debian's packages."
    )
    start_timeout: int = Field(120, ge=1, description="Seconds that services get to be healthy.")
    keep_releases: int = Field(5, ge=2, description="Releases of task code that are kept, to roll back to.")
    redis_maxmemory: str = Field(
        "512mb", validation_alias="REDIS_MAXMEMORY", description="Memory for data; a full Redis refuses new jobs."
    )
    redis_memory: str = Field(
        "1g", validation_alias="REDIS_MEMORY", description="Limit of Redis's container, about twice REDIS_MAXMEMORY."
    )
    redis_cpus: float = Field(1, gt=0, validation_alias="REDIS_CPUS", description="Processors that Redis may use.")
    postgres_memory: str = Field("512m", validation_alias="POSTGRES_MEMORY", description="Memory of PostgreSQL.")
    postgres_cpus: float = Field(1, gt=0, validation_alias="POSTGRES_CPUS", description="Processors of PostgreSQL.")
    worker_memory: str = Field("1g", validation_alias="WORKER_MEMORY", description="Memory of one worker.")
    worker_cpus: float = Field(1, gt=0, validation_alias="WORKER_CPUS", description="Processors of one worker.")
    worker_pids: int = Field(
        256, ge=16, validation_alias="WORKER_PIDS", description="Processes and threads of one worker."
    )
    service_memory: str = Field(
        "256m", validation_alias="SERVICE_MEMORY", description="Memory of each small service, such as the scheduler."
    )
    service_cpus: float = Field(
        0.5, gt=0, validation_alias="SERVICE_CPUS", description="Processors of each small service."
    )
    service_pids: int = Field(
        64, ge=8, validation_alias="SERVICE_PIDS", description="Processes and threads of each small service."
    )
    prometheus_image: str = Field(
        "prom/prometheus:v3.5.0", validation_alias="PROMETHEUS_IMAGE", description="Prometheus."
    )
    alertmanager_image: str = Field(
        "prom/alertmanager:v0.28.1", validation_alias="ALERTMANAGER_IMAGE", description="Alertmanager."
    )
    grafana_image: str = Field("grafana/grafana:12.2.0", validation_alias="GRAFANA_IMAGE", description="Grafana.")
    rq_exporter_image: str = Field(
        "rqstack/rq-exporter:local",
        validation_alias="RQ_EXPORTER_IMAGE",
        description="The name of rq-exporter's image.",
    )
    dashboard_image: str = Field(
        "rqstack/dashboard:local", validation_alias="DASHBOARD_IMAGE", description="The name of the jobs page's image."
    )
    monitor_memory: str = Field(
        "512m", validation_alias="MONITOR_MEMORY", description="Memory of Prometheus, and of Grafana."
    )
    monitor_cpus: float = Field(
        1, gt=0, validation_alias="MONITOR_CPUS", description="Processors of Prometheus, and of Grafana."
    )
    monitor_pids: int = Field(
        256, ge=64, validation_alias="MONITOR_PIDS", description="Processes and threads of Prometheus, and of Grafana."
    )
    prometheus_retention: str = Field(
        "15d", validation_alias="PROMETHEUS_RETENTION", description="How long Prometheus keeps its data."
    )
    rq_exporter_log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", validation_alias="RQ_EXPORTER_LOG_LEVEL", description="Least level that rq-exporter logs."
    )
    tmp_size: str = Field("64m", validation_alias="TMP_SIZE", description="Size of /tmp, in memory, of a container.")
    log_max_size: str = Field("10m", validation_alias="LOG_MAX_SIZE", description="Size at which a log is rotated.")
    log_max_files: int = Field(3, ge=1, validation_alias="LOG_MAX_FILES", description="Log files kept a container.")
    health_interval: str = Field("5s", validation_alias="HEALTH_INTERVAL", description="Time between health checks.")

    @field_validator("tasks_outside", mode="before")
    @classmethod
    def _split_outside(cls, value: Any) -> Any:
        return _names(value)

    # -- Ports, all on 127.0.0.1
    redis_port: Port = Field(6379, validation_alias="REDIS_PORT", description="Redis.")
    postgres_port: Port = Field(5432, validation_alias="POSTGRES_PORT", description="PostgreSQL.")
    rq_exporter_port: Port = Field(9726, validation_alias="RQ_EXPORTER_PORT", description="rq-exporter.")
    prometheus_port: Port = Field(9090, validation_alias="PROMETHEUS_PORT", description="Prometheus.")
    alertmanager_port: Port = Field(9093, validation_alias="ALERTMANAGER_PORT", description="Alertmanager.")
    grafana_port: Port = Field(3000, validation_alias="GRAFANA_PORT", description="Grafana.")
    dashboard_port: Port = Field(9181, validation_alias="DASHBOARD_PORT", description="The jobs web page.")


def env_name(name: str, field: FieldInfo) -> str:
    """The environment variable of a field."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    return alias if isinstance(alias, str) else f"{PREFIX}{name.upper()}"


def load(cls: type[_T], **given: Any) -> _T:
    """Read settings of a class, from the environment and the files of `home()`.

    Args:
        cls: `Settings` or `StackSettings`.
        given: Values that win over every other source, by field name.

    Raises:
        SettingsError: A value is not allowed, or a `*_FILE` cannot be read. One line a setting.
    """
    root = home()
    try:
        return cls(_env_file=(root / ".env", root / "var" / "stack.env"), **given)
    except ValidationError as error:
        raise SettingsError("\n".join(_explain(cls, problem) for problem in error.errors())) from None


def _explain(cls: type[_Base], problem: Any) -> str:
    """One line: the setting, the value, what is allowed."""
    where = f"Set it in the environment or in {home() / '.env'}."
    if not problem["loc"]:  # about several settings; its input is all of them, secrets too
        return f"{problem['msg'].removeprefix('Value error, ')} {where}"
    key = str(problem["loc"][0])
    fields = {env_name(name, field): field for name, field in cls.model_fields.items()}
    name = key if key in fields else env_name(key, cls.model_fields[key])
    value = "(hidden)" if "SecretStr" in str(fields[name].annotation) else repr(problem["input"])
    value = re.sub(r"//[^/]*@", "//***@", value)  # a password in a URL
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{name}: {value} is not allowed: should be {allowed}. {where}"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        SettingsError: as `load`.
    """
    return load(Settings)
