"""Fetches a page within limits of time, size and redirects.

What is guarded: only http and https, also after a redirect; bounded time, size (after decompression) and redirects;
no credentials, cookies or headers of this machine are sent. What is not: addresses. A worker fetches whatever its
network lets it reach, internal services included, so take URLs only from people who may use that network, or put the
worker on a network (or behind a proxy: HTTP_PROXY is honoured) that reaches no more than it should.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass

import httpx

from wordcount.errors import PageError

MAX_BYTES = 5_000_000
"""Size above which a page is refused, after decompression."""
MAX_SECONDS = 30.0
"""Time above which the download of a page is given up."""
MAX_REDIRECTS = 5
STEP_TIMEOUT = 10.0
"""Seconds for the connection, and for each wait for more data."""

HEADERS = {
    "User-Agent": "rqstack-wordcount/0.1",
    "Accept": "text/html, text/*;q=0.9, application/xhtml+xml",
    "Accept-Encoding": "gzip",
}
MARKUP = ("text/html", "application/xhtml+xml", "application/xml", "text/xml")


@dataclass(frozen=True)
class Page:
    """What was fetched.

    Args:
        url: The address after redirects.
        content: The body, decompressed.
        charset: As the server's header says it, or None.
        markup: True for HTML and XML, False for plain text.
    """

    url: str
    content: bytes
    charset: str | None
    markup: bool


def fetch(url: str, *, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> Page:
    """Fetch a page.

    Args:
        url: http or https; without a scheme it means http.
        max_bytes: Size above which the page is refused.
        max_seconds: Seconds above which the download is given up.

    Raises:
        PageError: It cannot be had, or is not text.
    """
    address = parse_url(url)
    shown = str(address)
    deadline = time.monotonic() + max_seconds
    timeout = httpx.Timeout(min(STEP_TIMEOUT, max_seconds))
    try:
        with (
            httpx.Client(
                timeout=timeout, headers=HEADERS, follow_redirects=True, max_redirects=MAX_REDIRECTS
            ) as client,
            client.stream("GET", address) as response,
        ):
            if response.status_code != 200:
                status = f"{response.status_code} {response.reason_phrase}".strip()
                raise PageError(f"{shown} answered {status}.")
            kind, charset = _content_type(response, shown)
            content = _read(response, shown, max_bytes, max_seconds, deadline)
            if _is_binary(content, charset):
                raise PageError(f"{shown} is not text: its content is binary.")
            return Page(str(response.url), content, charset, kind in MARKUP or kind.endswith("+xml"))
    except httpx.TimeoutException as error:
        raise PageError(f"{shown} did not answer within {timeout.read:g} seconds.") from error
    except httpx.TooManyRedirects as error:
        raise PageError(f"{shown} redirects more than {MAX_REDIRECTS} times.") from error
    except httpx.UnsupportedProtocol as error:
        raise PageError(f"{shown} redirects to an address that is neither http nor https.") from error
    except (httpx.InvalidURL, httpx.RemoteProtocolError, UnicodeError, ValueError) as error:
        raise PageError(f"{shown} answered something that is not HTTP: {_reason(error)}.") from error
    except httpx.HTTPError as error:
        raise PageError(f"{shown} cannot be reached: {_reason(error)}.") from error


def parse_url(url: str) -> httpx.URL:
    """A URL as a person types it.

    Args:
        url: http or https; without a scheme it means http.

    Raises:
        PageError: It is no such URL.
    """
    text = url.strip() if isinstance(url, str) else ""
    if not text:
        raise PageError(f"{url!r} is not a web address.")
    if "://" not in text:
        text = f"http://{text}"
    try:
        address = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise PageError(f"{url!r} is not a web address: {_reason(error)}.") from error
    if address.scheme not in ("http", "https"):
        raise PageError(f"{url!r} is not a web address: only http and https are fetched.")
    if not address.host:
        raise PageError(f"{url!r} is not a web address: it names no host.")
    return address


def _reason(error: Exception) -> str:
    """The innermost cause's words: httpx wraps the operating system's error three times."""
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror[:1].lower() + cause.strerror[1:]
    return (str(cause).splitlines() or [type(cause).__name__])[0].rstrip(".")


def _content_type(response: httpx.Response, shown: str) -> tuple[str, str | None]:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = kind in MARKUP or kind.startswith("text/") or kind.endswith(("+xml", "/json", "+json"))
    if kind and not text:
        raise PageError(f"{shown} is not text: its content type is {kind}.")
    return kind or "text/html", response.charset_encoding


def _read(response: httpx.Response, shown: str, max_bytes: int, max_seconds: float, deadline: float) -> bytes:
    """The body, never holding more than the limit: httpx would inflate a bomb before anyone could look."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise PageError(f"{shown} is compressed by {encoding}, which was not asked for.")
    inflater = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    content = bytearray()
    # Without a chunk size, which would wait until a chunk is full: a slow drip must be seen.
    for chunk in response.iter_raw():
        if inflater is None:
            content += chunk
        else:
            try:
                content += inflater.decompress(chunk, max_bytes - len(content) + 1)
            except zlib.error as error:
                raise PageError(f"{shown} cannot be decompressed: {error}.") from error
        if len(content) > max_bytes:
            raise PageError(f"{shown} is longer than {max_bytes / 1e6:g} MB.")
        if time.monotonic() > deadline:
            raise PageError(f"{shown} took longer than {max_seconds:g} seconds.")
    if inflater is not None and not inflater.eof:
        raise PageError(f"{shown} cannot be decompressed: it ends too early.")
    return bytes(content)


def _is_binary(content: bytes, charset: str | None) -> bool:
    wide = (charset or "").lower().startswith(("utf-16", "utf-32", "utf16", "utf32"))
    return b"\0" in content[:4096] and not wide and not content.startswith((b"\xff\xfe", b"\xfe\xff"))
