"""The settings of `make start` and the compose files."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, Literal

from msgspec import Meta, field

from rqstack.settings.fields import LogLevel, MaybeSecret, Names
from rqstack.settings.loader import SettingsBase, group

Port = Annotated[int, Meta(ge=1, le=65535)]

_stack = group("The stack: `make start` chooses mode and project once")
_secrets = group("Secrets: `make start` writes random ones into .env")
_containers = group("Images and limits of the containers")
_ports = group("Ports, on 127.0.0.1 but for REDIS_BIND")


def _check_bind(value: str) -> None:
    try:
        IPv4Address(value)
    except ValueError:
        raise ValueError("an IPv4 address of this machine, or 0.0.0.0 for all") from None


class StackSettings(SettingsBase, frozen=True, rename="upper"):
    """Further settings of `make start` and the compose files: images, ports, limits and the password of each role.

    `make start` chooses some of them where the user has not set them: see `rqstack.stack.choices`.
    """

    mode: Annotated[
        Literal["auto", "local", "compose"],
        _stack("Where the stack runs: with compose, or as local processes; auto prefers compose."),
    ] = field(default="auto", name="RQSTACK_MODE")
    project: Annotated[str, _stack("The compose project: the beginning of the names of containers and volumes.")] = (
        field(default="rqstack", name="COMPOSE_PROJECT_NAME")
    )
    workers: Annotated[
        int, _stack("Number of worker containers, or of worker processes without Docker.", ge=1, le=512)
    ] = 1

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
    grafana_profile: Annotated[
        str, _containers("The compose profile that Grafana needs; empty for none. Set where its image is missing.")
    ] = ""
    rq_exporter_image: Annotated[str, _containers("The name of rq-exporter's image.")] = "rqstack/rq-exporter:local"
    dashboard_image: Annotated[str, _containers("The name of the jobs page's image.")] = "rqstack/dashboard:local"
    monitor_memory: Annotated[str, _containers("Memory of Prometheus, and of Grafana.")] = "512m"
    monitor_cpus: Annotated[float, _containers("Processors of Prometheus, and of Grafana.", gt=0)] = 1
    monitor_pids: Annotated[int, _containers("Processes and threads of Prometheus, and of Grafana.", ge=64)] = 256
    prometheus_retention: Annotated[str, _containers("How long Prometheus keeps its data.")] = "15d"
    rq_exporter_log_level: Annotated[LogLevel, _containers("Least level that rq-exporter logs.")] = "INFO"
    tmp_size: Annotated[str, _containers("Size of /tmp, in memory, of a container.")] = "64m"
    log_max_size: Annotated[str, _containers("Size at which a log is rotated.")] = "10m"
    log_max_files: Annotated[int, _containers("Log files kept per container.", ge=1)] = 3
    health_interval: Annotated[str, _containers("Time between health checks.")] = "5s"

    redis_port: Annotated[Port, _ports("Redis.")] = 6379
    redis_bind: Annotated[
        str, Meta(extra={"check": _check_bind}), _ports("Address on which Redis listens, for producers on other hosts.")
    ] = "127.0.0.1"
    postgres_port: Annotated[Port, _ports("PostgreSQL.")] = 5432
    rq_exporter_port: Annotated[Port, _ports("rq-exporter.")] = 9726
    prometheus_port: Annotated[Port, _ports("Prometheus.")] = 9090
    alertmanager_port: Annotated[Port, _ports("Alertmanager.")] = 9093
    grafana_port: Annotated[Port, _ports("Grafana.")] = 3000
    dashboard_port: Annotated[Port, _ports("The jobs web page.")] = 9181
