"""Sends one request, follows its redirects, and gives the response with an unread body."""

from __future__ import annotations

import base64
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import Any

import httpcore
import httpx

from rqstack.errors import RqstackError
from rqstack.outbound.addresses import AddressRules
from rqstack.outbound.network import AddressRefused, Deadline, GuardedNetwork, allowed, resolve
from rqstack.settings import get_settings
from rqstack.settings.redaction import safe_repr

MAX_REDIRECTS = 5
_METHOD_KEPT = (307, 308)
_MADE = ("host", "content-length", "content-type", "transfer-encoding")
"""Headers that belong to one URL or body."""
_ERRORS = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError)


class RequestFailed(RqstackError):
    """A request has failed. The message is one sentence that begins with the URL, without its password."""


class RequestRefused(RequestFailed):
    """A request was not sent, because the address is not allowed."""


class RequestTimeout(RequestFailed):
    """A request took longer than it may."""


@contextmanager
def open_url(
    url: str | httpx.URL,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    seconds: float = 30,
    max_redirects: int = MAX_REDIRECTS,
    same_host: bool = False,
    rules: AddressRules | None = None,
) -> Iterator[httpx.Response]:
    """Send a request to a public address, or to one that RQSTACK_PRIVATE_HOSTS allows; follow redirects.

    The body of the response is not read: `response.iter_raw()` gives it piece by piece, compressed as it came, so that
    the caller can stop. Bodies of redirects are never read. Cookies are not kept. The variables HTTP_PROXY, HTTPS_PROXY
    and NO_PROXY are followed; a proxy resolves names itself, so it has to refuse what it should not reach.

    Args:
        url: http or https.
        headers: Sent to this host only, not to another that it redirects to.
        content: The body.
        seconds: For everything: resolving, connecting, redirects, and the body of the response.
        same_host: Refuse redirects to another host, and from https to http.
        rules: Default: those of the settings.

    Raises:
        RequestRefused: The address is not allowed.
        RequestTimeout: It took longer than `seconds`; also raised while the body is read.
        RequestFailed: The host cannot be reached, or its answer is not HTTP; also raised while the body is read.
    """
    try:
        first = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise RequestFailed(f"{safe_repr(str(url))} is not a web address: {_reason(error)}.") from None
    shown = str(first.copy_with(userinfo=b""))
    if not _is_web_address(first):
        reason = "it names no host" if first.scheme in ("http", "https") else "only http and https are fetched"
        raise RequestFailed(f"{shown!r} is not a web address: {reason}.")
    deadline = Deadline(seconds)
    request = httpx.Request(method, first, headers=headers, content=content)
    rules = rules or AddressRules(get_settings().private_hosts)
    try:
        response = _follow(request, shown, rules, deadline, max_redirects, same_host)
    except (*_ERRORS, AddressRefused, httpx.InvalidURL, ValueError, OSError) as error:
        raise _explained(error, shown, seconds) from error
    try:
        with closing(response):
            yield response
    except _ERRORS as error:
        raise _explained(error, shown, seconds) from error


def _follow(
    request: httpx.Request, shown: str, rules: AddressRules, deadline: Deadline, max_redirects: int, same_host: bool
) -> httpx.Response:
    """The response of the last URL, its body unread."""
    first = request.url
    for _ in range(max_redirects + 1):
        response = _send(request, rules, deadline)
        if not response.has_redirect_location:
            return response
        response.close()
        target = request.url.join(response.headers["location"])
        if not _is_web_address(target):
            raise RequestFailed(f"{shown} redirects to an address that is neither http nor https.")
        if same_host and target.host != first.host:
            raise RequestRefused(f"{shown} redirects to another host, {target.host}, which is not followed.")
        if same_host and (first.scheme, target.scheme) == ("https", "http"):
            raise RequestRefused(f"{shown} redirects to http, where others could read along, which is not followed.")
        request = _redirected(request, target, response.status_code)
    raise RequestFailed(f"{shown} redirects more than {max_redirects} times.")


def _redirected(request: httpx.Request, target: httpx.URL, status: int) -> httpx.Request:
    same_origin = (target.scheme, target.host, target.port) == (request.url.scheme, request.url.host, request.url.port)
    headers = [(name, value) for name, value in request.headers.items() if name not in _MADE] if same_origin else []
    if status in _METHOD_KEPT:
        return httpx.Request(request.method, target, headers=headers, content=request.read())
    return httpx.Request("GET", target, headers=headers)


def _is_web_address(url: httpx.URL) -> bool:
    return url.scheme in ("http", "https") and bool(url.host)


def _explained(error: Exception, shown: str, seconds: float) -> RequestFailed:
    match error:
        case AddressRefused():
            return RequestRefused(
                f"{shown} is not requested: {error.host} has the address {error.address}, which is not public. To "
                f"allow it, add {error.host} to RQSTACK_PRIVATE_HOSTS."
            )
        case httpcore.TimeoutException():
            return RequestTimeout(f"{shown} took longer than {seconds:g} seconds.")
        case httpcore.NetworkError() | httpcore.ProxyError() | OSError():
            return RequestFailed(f"{shown} cannot be reached: {_reason(error)}.")
    return RequestFailed(f"{shown} answered something that is not HTTP: {_reason(error)}.")


class _Body(httpx.SyncByteStream):
    """The body of a response, which closes its connection with it."""

    def __init__(self, response: httpcore.Response, pool: httpcore.ConnectionPool) -> None:
        self._response = response
        self._pool = pool

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()
        self._pool.close()


def _send(request: httpx.Request, rules: AddressRules, deadline: Deadline) -> httpx.Response:
    url = request.url
    if url.userinfo and "authorization" not in request.headers:
        token = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
        request.headers["authorization"] = f"Basic {token}"
    pool = _pool(url, rules, deadline)
    try:
        answer = pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
            )
        )
    except BaseException:
        pool.close()
        raise
    return httpx.Response(
        answer.status,
        headers=answer.headers,
        stream=_Body(answer, pool),
        request=request,
        extensions={name: value for name, value in answer.extensions.items() if name != "network_stream"},
    )


def _pool(url: httpx.URL, rules: AddressRules, deadline: Deadline) -> httpcore.ConnectionPool:
    proxy = _proxy(url)
    if proxy is None:
        return httpcore.ConnectionPool(_tls(), network_backend=GuardedNetwork(rules, deadline))
    try:
        addresses = resolve(url.host, url.port or 0, deadline)
    except httpcore.ConnectError:
        addresses = []  # names that only the proxy can resolve
    allowed(rules, url.host, addresses)
    auth = None if proxy.username == "" else (proxy.username, proxy.password)
    return httpcore.HTTPProxy(
        str(proxy.copy_with(userinfo=b"")),
        proxy_auth=auth,
        ssl_context=_tls(),
        network_backend=GuardedNetwork(None, deadline),
    )


def _proxy(url: httpx.URL) -> httpx.URL | None:
    proxies = urllib.request.getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    if not address or urllib.request.proxy_bypass(url.netloc.decode()):
        return None
    return httpx.URL(address if "://" in address else f"http://{address}")


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Reading the certificates of the authorities takes 10 ms and more."""
    return ssl.create_default_context()


def _reason(error: BaseException) -> str:
    """The innermost cause's words: the libraries wrap the operating system's error several times."""
    cause: Any = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")
