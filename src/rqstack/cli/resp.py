"""A few Redis commands over a plain socket: for the health check, which cannot afford a real client's start-up."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from hiredis import ProtocolError, Reader, ReplyError

from rqstack.settings.cluster_url import is_cluster, node_urls
from rqstack.transport import keys
from rqstack.transport.protocol import pack


class RespError(Exception):
    """Redis answered with an error, or what answered is not Redis."""


def open_client(url: str, username: str | None, password: str | None, timeout: float) -> Client:
    """Connect to Redis; in a cluster to the node that serves the key prefix. Arguments and errors as for `Client`."""
    if not is_cluster(url):
        return Client(url, username, password, timeout)
    nodes = node_urls(url)
    problem: Exception = ConnectionError("no node says that it serves the key prefix")
    tried: set[str] = set()
    while nodes:
        node = nodes.pop(0)
        if node in tried:
            continue
        tried.add(node)
        client = None
        try:
            client = Client(node, username, password, timeout)
            client.call(["EXISTS", keys.SCHEMA])
            return client
        except (OSError, RespError) as error:
            if client is not None:
                client.close()
            code, _, rest = str(error).partition(" ")
            if code == "MOVED":
                nodes.insert(0, _at(node, rest.partition(" ")[2]))
            else:
                problem = error
    raise problem


def _at(url: str, address: str) -> str:
    """A URL with the address of another node."""
    host, _, port = address.rpartition(":")
    parts = urlsplit(url)
    host = host or parts.hostname or "localhost"
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}{f'[{host}]' if ':' in host else host}:{port}"))


class Client:
    """A connection to Redis, logged in and on its database.

    Args:
        url: redis://, rediss:// (with redis-py's `ssl_*` parameters) or unix://.
        username: Where the URL names none.
        password: Where the URL has none.
        timeout: Seconds for the connection, and for each read and write.

    Raises:
        OSError: Redis cannot be reached.
        RespError: Redis refuses the user, the password or the database.
        ValueError: The URL is malformed.
    """

    def __init__(self, url: str, username: str | None, password: str | None, timeout: float) -> None:
        parts = urlsplit(url)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.reader = Reader()
        self.socket = _open(parts.scheme, parts.hostname, parts.port, unquote(parts.path), query, timeout)
        user = unquote(parts.username) if parts.username else query.get("username") or username
        secret = unquote(parts.password) if parts.password else query.get("password") or password
        database = query.get("db") or (parts.path.strip("/") if parts.scheme != "unix" else "") or "0"
        hello = []
        if secret:
            hello.append(["AUTH", *([user] if user else []), secret])
        if database != "0":
            hello.append(["SELECT", database])
        try:
            if hello:
                self.call(*hello)
        except BaseException:
            self.close()
            raise

    def call(self, *commands: list[str], wrong_type: Any = RespError) -> list[Any]:
        """Send commands in one go and return their replies.

        Args:
            wrong_type: The reply of a command whose key is of another type. Default: that is an error.

        Raises:
            RespError: One of the replies is an error.
            OSError: The connection broke or timed out.
        """
        self.socket.sendall(b"".join(pack(*command) for command in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            try:
                reply = self.reader.gets()
            except ProtocolError as error:
                raise RespError(f"this is not Redis ({error})") from error
            if reply is False:
                data = self.socket.recv(65536)
                if not data:
                    raise ConnectionError("Redis closed the connection")
                self.reader.feed(data)
                continue
            if isinstance(reply, ReplyError) and str(reply).startswith("WRONGTYPE") and wrong_type is not RespError:
                reply = wrong_type
            if isinstance(reply, ReplyError):
                raise RespError(str(reply).splitlines()[0].rstrip("."))
            replies.append(reply)
        return replies

    def close(self) -> None:
        self.socket.close()


def _open(
    scheme: str, host: str | None, port: int | None, path: str, query: dict[str, str], timeout: float
) -> socket.socket:
    if scheme == "unix":
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(timeout)
        link.connect(path)
        return link
    host = host or "localhost"
    plain = socket.create_connection((host, port or 6379), timeout=timeout)
    if scheme != "rediss":
        return plain
    import ssl

    # redis-py's names and defaults, so that one REDIS_URL serves both.
    context = ssl.create_default_context(cafile=query.get("ssl_ca_certs"), capath=query.get("ssl_ca_path"))
    need = query.get("ssl_cert_reqs", "required").removeprefix("CERT_").lower()
    context.check_hostname = need != "none" and query.get("ssl_check_hostname", "true").lower() in ("true", "1", "yes")
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL}.get(need, ssl.CERT_REQUIRED)
    if certificate := query.get("ssl_certfile"):
        context.load_cert_chain(certificate, query.get("ssl_keyfile"))
    return context.wrap_socket(plain, server_hostname=host)
