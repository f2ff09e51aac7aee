"""The one place that opens Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from redis import Redis, exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from rqstack.errors import BrokerUnavailable, SettingsError
from rqstack.settings import get_settings
from rqstack.settings.cluster_url import is_cluster
from rqstack.settings.loader import is_from_sources
from rqstack.settings.redaction import safe_url
from rqstack.settings.watch import Watch
from rqstack.transport import keys

if TYPE_CHECKING:
    from rqstack.settings import Settings

__all__ = ["CONNECT_TIMEOUT", "client_url", "connect", "explain", "safe_url"]

CONNECT_TIMEOUT = 5.0


def connect(settings: Settings | None = None, *, retries: int = 3, **options: Any) -> Redis:
    """Open a client for the Redis of the settings. Nothing is sent before its first command.

    Args:
        settings: Default: `get_settings()`.
        retries: Times a command is sent again after a lost connection, with exponential backoff. 0 for none.
        options: Passed to `redis.Redis`, and win over what is set here.

    Raises:
        SettingsError: The URL is that of a cluster, and RQ_KEY_PREFIX has no hash tag; or a TLS file is missing.
    """
    settings = settings or get_settings()
    given: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_keepalive": True,
        "health_check_interval": 30,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries),
        "retry_on_error": [exceptions.ConnectionError, exceptions.TimeoutError],
    }
    url = urlsplit(settings.redis_url)
    if url.scheme == "unix":
        # A socket file has nothing to keep alive.
        del given["socket_keepalive"]
    given |= _credentials(settings, url, options)
    address = settings.full_redis_url()
    if is_cluster(address):
        from rqstack.transport.cluster import connect_to_cluster

        return connect_to_cluster(address, **(given | options))
    return Redis.from_url(address, **(given | options))


def _credentials(settings: Settings, url: SplitResult, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for the user name and password of a client, where neither its URL nor its options have them."""
    in_url = {"username": url.username or "", "password": url.password or ""} | dict(parse_qsl(url.query))
    username = in_url["username"] or settings.redis_username
    password = settings.redis_password
    given: dict[str, Any] = {} if in_url["username"] or not username else {"username": username}
    if password is None or in_url["password"]:
        return given
    if (
        in_url["username"]
        or options.keys() & {"username", "password"}
        or not is_from_sources("redis_password", password)
    ):
        return {**given, "password": password.get_secret_value()}
    return {"credential_provider": RotatedPassword(username, password.get_secret_value())}


class RotatedPassword(CredentialProvider):
    """The user name and the password of the settings, read again before a connection is made if a file has changed.

    So a process that runs while passwords are rotated needs no restart.

    Args:
        username: None for Redis's default user.
        password: That of the settings, which may change.
    """

    def __init__(self, username: str | None, password: str) -> None:
        self._username = username
        self._password = password
        self._watch = Watch("REDIS_PASSWORD", lambda settings: settings.redis_password)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What redis-py logs in with."""
        with contextlib.suppress(SettingsError):  # the file is being written, or cannot be read any more
            if found := self._watch.changed():
                self._password = found.get_secret_value()
        return (self._username, self._password) if self._username else (self._password,)


def client_url(client: Redis) -> str:
    """The URL of the Redis that somebody else's client is for; "" if its pool chooses one, as with Sentinel."""
    options = client.connection_pool.connection_kwargs
    if path := options.get("path"):
        return f"unix://{path}"
    host, port, database = options.get("host"), options.get("port", 6379), options.get("db") or 0
    return f"redis://{host}:{port}/{database}" if host else ""


def explain(error: Exception, url: str) -> BrokerUnavailable:
    """The exception that explains a failed Redis call in one sentence.

    Args:
        error: A `redis.exceptions.RedisError`.
        url: The Redis URL that was used.
    """
    where = f"Redis at {safe_url(url)}"
    if isinstance(error, exceptions.NoPermissionError):
        return BrokerUnavailable(f"{where} does not allow this to the user in use: {error}.")
    if isinstance(error, exceptions.AuthenticationError) or "WRONGPASS" in str(error) or "NOAUTH" in str(error):
        return BrokerUnavailable(
            f"{where} refused the user name or password. Check REDIS_URL, REDIS_USERNAME and REDIS_PASSWORD."
        )
    if isinstance(error, exceptions.OutOfMemoryError):
        return BrokerUnavailable(
            f"{where} has no memory left, so it takes no new jobs. Raise maxmemory or drain queues."
        )
    if "WRONGTYPE" in str(error):
        detail = str(error).partition("WRONGTYPE ")[2].partition(" script:")[0].rstrip(".")
        return BrokerUnavailable(
            f"{where} has a damaged record: {detail}. Workers and schedulers drop such keys where they meet them."
        )
    if "MISCONF" in str(error):
        return BrokerUnavailable(
            f"{where} cannot write to its disk, so it takes no new jobs. Free disk space; it goes on by itself."
        )
    if "NOREPLICAS" in str(error):
        return BrokerUnavailable(
            f"{where} has too few replicas in step, so it takes no new jobs. Start replicas, or lower "
            "min-replicas-to-write; it goes on by itself."
        )
    if isinstance(error, exceptions.ReadOnlyError) or "READONLY" in str(error):
        return BrokerUnavailable(f"{where} is a replica, which takes no new jobs. Set REDIS_URL to its primary.")
    if isinstance(error, exceptions.AskError | exceptions.ClusterCrossSlotError) and not is_cluster(url):
        prefix = "" if keys.HASH_TAG else " and RQ_KEY_PREFIX one with a hash tag, such as {rq}"
        return BrokerUnavailable(
            f"{where} is a node of a Redis Cluster. Set REDIS_URL to redis+cluster:// with its nodes{prefix}."
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return BrokerUnavailable(
            f"{where} has a certificate that cannot be verified: {_tls_reason(error)}. Check REDIS_TLS_CA, and that "
            "the certificate names the host as REDIS_URL does."
        )
    reason = str(error).rstrip(".") or type(error).__name__
    return BrokerUnavailable(f"{where} cannot be reached: {reason}. Is it running? Check REDIS_URL.")


def _tls_reason(error: Exception) -> str:
    """The end of 'Error 1 connecting to h:1. [SSL: …] certificate verify failed: self-signed (_ssl.c:1006).'"""
    return str(error).rpartition("verify failed: ")[2].partition(" (_ssl")[0].rstrip(".")
