"""The settings of rqstack's processes, each declared once: its type, limits, default, group and description.

`rqstack.settings.sources` lists where a value can come from. `rqstack stack env-example` writes `.env.example` and the
tables in docs/settings.md from these declarations and those in `stack_fields`; tests compare them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from msgspec import Meta, field

from rqstack.errors import SettingsError
from rqstack.settings.cluster_url import is_cluster, node_urls
from rqstack.settings.defaults import DEAD_AFTER, MAX_PAYLOAD, REDIS_URL
from rqstack.settings.loader import PREFIX, SecretStr, SettingsBase, declared_settings, group, load
from rqstack.settings.paths import home
from rqstack.settings.sources import framework_settings
from rqstack.settings.tls_url import tls_url

SHORTEST_KEY = 16
"""Characters that a signing key has at least."""


def _check_redis_url(value: str) -> None:
    if is_cluster(value):
        for node in node_urls(value):
            if not urlsplit(node).netloc.rpartition("@")[2]:
                raise ValueError("a URL whose hosts are separated by one comma each")
            _check_redis_url(node)
            if urlsplit(node).path.strip("/") not in ("", "0") or "db" in parse_qs(urlsplit(node).query):
                raise ValueError("a URL without a database number: a cluster has one database only")
        return
    if not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("a URL that starts with redis://, rediss://, unix://, redis+cluster:// or rediss+cluster://")
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
    databases = parse_qs(parts.query).get("db", [])
    if not value.startswith("unix://"):
        databases.append(unquote(parts.path).strip("/") or "0")
    if not all(database.isascii() and database.isdecimal() for database in databases):
        raise ValueError("a URL whose database is a number, 0 or more")


def _check_keys(value: SecretStr) -> None:
    text = value.get_secret_value()
    if text and any(len(key.strip()) < SHORTEST_KEY for key in text.split(",")):
        raise ValueError(
            f"keys of at least {SHORTEST_KEY} random characters, separated by commas; `openssl rand -hex 24` makes one"
        )


RedisUrl = Annotated[str, Meta(extra={"check": _check_redis_url})]
Names = tuple[str, ...]
QueueNames = Annotated[Names, Meta(min_length=1)]
Positive = Annotated[int, Meta(ge=1)]
MaybeSecret = SecretStr | None
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

_redis = group("Redis")
_jobs = group("Jobs")
_workers = group("Workers")
_store = group("Message backend and database")
_framework = group("Frameworks")
_requests = group("Requests to other machines")
_logs = group("Logs")


class Settings(SettingsBase, frozen=True):
    """Settings of producers, workers, the scheduler and commands."""

    redis_url: Annotated[RedisUrl, _redis("Where Redis is; redis+cluster://host:port,host:port for a cluster.")] = (
        field(default=REDIS_URL, name="REDIS_URL")
    )
    redis_username: Annotated[str | None, _redis("The ACL user, where REDIS_URL names none.")] = field(
        default=None, name="REDIS_USERNAME"
    )
    redis_password: Annotated[MaybeSecret, _redis("Its password, where REDIS_URL has none.")] = field(
        default=None, name="REDIS_PASSWORD"
    )

    redis_tls_ca: Annotated[
        Path | None, _redis("File with the certificate of the authority that signed Redis's; turns TLS on.")
    ] = field(default=None, name="REDIS_TLS_CA")
    redis_tls_cert: Annotated[
        Path | None, _redis("File with Redis's own certificate; on other hosts what a client shows, if asked.")
    ] = field(default=None, name="REDIS_TLS_CERT")
    redis_tls_key: Annotated[Path | None, _redis("File with the key of REDIS_TLS_CERT.")] = field(
        default=None, name="REDIS_TLS_KEY"
    )

    secret_key: Annotated[
        MaybeSecret,
        _jobs(
            "Signs job payloads; at least 16 characters. Several, comma-separated: the first signs, all verify.",
            check=_check_keys,
        ),
    ] = None
    accept_rq_signatures: Annotated[
        bool, _jobs("1 accepts what RQ's own queues and workers sign with rqstack.security.Default.")
    ] = False
    serializer: Annotated[Literal["pickle", "json"], _jobs("How arguments and results are stored.")] = "pickle"
    max_payload: Annotated[
        int, _jobs("MiB that the arguments or the result of a job may have, before they are compressed.", ge=1, le=512)
    ] = MAX_PAYLOAD
    tasks_path: Annotated[Path, _jobs("The folder of task projects, from the project's root.")] = Path("tasks")
    projects: Annotated[Names, _jobs("Projects of that folder to use; empty for all.")] = ()
    reload: Annotated[bool, _jobs("1 replaces horses when a file of the task code is saved, for development.")] = False
    modules: Annotated[Names, _jobs("Further modules with tasks, by dotted name.")] = ()
    allow_unregistered: Annotated[
        bool, _jobs("1 lets workers run any importable function, for plain RQ producers.")
    ] = False
    show_arguments: Annotated[
        bool, _jobs("1 shows the values of arguments in the descriptions of jobs, not their names alone.")
    ] = False
    job_timeout: Annotated[int, _jobs("Seconds a job may run, where its task does not say.", ge=1)] = 180
    result_ttl: Annotated[int, _jobs("Seconds a result is kept; -1 forever.", ge=-1)] = 500
    failure_ttl: Annotated[int, _jobs("Seconds a failed job is kept; -1 forever.", ge=-1)] = 31_536_000

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
    batch: Annotated[int, _workers("Tiny jobs that a horse claims at once, at most; 1 for one by one.", ge=1, le=8)] = 8

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
        Names, _framework("Modules, or functions as module:function, that a worker loads before it forks.")
    ] = ()
    django_settings_module: Annotated[
        str | None, _framework("Django's settings module; if set, workers load the site.")
    ] = field(default=None, name="DJANGO_SETTINGS_MODULE")

    private_hosts: Annotated[
        Names,
        _requests(
            "Hosts, addresses and networks that webhooks and word counts may reach although they are not public, such "
            "as 10.0.0.0/8."
        ),
    ] = ()
    webhook_hosts: Annotated[
        Names, _requests("Hosts to which unsigned webhooks are sent, such as the webhooks of plain RQ producers.")
    ] = ()

    log_level: Annotated[LogLevel, _logs("Minimum log level.")] = "INFO"
    log_format: Annotated[Literal["text", "json"], _logs("text for people, json for log collectors.")] = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.redis_tls_cert is None) != (self.redis_tls_key is None):
            missing = "REDIS_TLS_KEY" if self.redis_tls_key is None else "REDIS_TLS_CERT"
            raise SettingsError(f"{missing} is not set. REDIS_TLS_CERT and REDIS_TLS_KEY go together.")
        # Otherwise a live worker counts as dead between two heartbeats, and its jobs run twice.
        if self.dead_after < 2 * self.heartbeat:
            raise SettingsError(
                f"RQSTACK_DEAD_AFTER: {self.dead_after:g} is not allowed: should be at least twice "
                f"RQSTACK_HEARTBEAT, which is {self.heartbeat:g}."
            )

    def full_redis_url(self) -> str:
        """REDIS_URL with the parameters of the TLS settings.

        Raises:
            SettingsError: A TLS file does not exist.
        """
        for name in ("redis_tls_ca", "redis_tls_cert", "redis_tls_key"):
            if (path := getattr(self, name)) is not None and not (home() / path).is_file():
                raise SettingsError(f"{name.upper()}: {home() / path} is not a file.")
        return tls_url(self.redis_url, self.redis_tls_ca, self.redis_tls_cert, self.redis_tls_key)

    def secret_keys(self) -> tuple[bytes, ...]:
        """The signing keys, the one that signs first; empty if there is none."""
        if self.secret_key is None:
            return ()
        return tuple(key.strip().encode() for key in self.secret_key.get_secret_value().split(",") if key.strip())


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        SettingsError: As for `load`.
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
