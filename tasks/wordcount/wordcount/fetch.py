"""Fetches a page within limits of time, size, redirects and addresses.

`rqstack.outbound` guards the request: only http and https, only public addresses (and those that RQSTACK_PRIVATE_HOSTS
names), also after a redirect; one deadline for everything. This module adds the limit of size, which holds after
decompression.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rqstack.outbound import RequestFailed, open_url
from wordcount.errors import PageError

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 5_000_000
"""Size above which a page is refused, after decompression."""
MAX_SECONDS = 30.0
"""Time above which the download of a page is given up."""

HEADERS = {
    "User-Agent": "rqstack-wordcount/0.2",
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
    address = url.strip() if isinstance(url, str) else ""
    if not address:
        raise PageError(f"{url!r} is not a web address.")
    if "://" not in address:
        address = f"http://{address}"
    try:
        with open_url(address, headers=HEADERS, seconds=max_seconds) as response:
            return _read_page(response, max_bytes)
    except RequestFailed as error:
        raise PageError(str(error)) from error


def _read_page(response: httpx.Response, max_bytes: int) -> Page:
    shown = str(response.url.copy_with(userinfo=b""))
    if response.status_code != 200:
        status = f"{response.status_code} {response.reason_phrase}".strip()
        raise PageError(f"{shown} answered {status}.")
    kind, charset = _content_type(response, shown)
    content = _read_body(response, shown, max_bytes)
    if _is_binary(content, charset):
        raise PageError(f"{shown} is not text: its content is binary.")
    return Page(shown, content, charset, kind in MARKUP or kind.endswith("+xml"))


def _content_type(response: httpx.Response, shown: str) -> tuple[str, str | None]:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = kind in MARKUP or kind.startswith("text/") or kind.endswith(("+xml", "/json", "+json"))
    if kind and not text:
        raise PageError(f"{shown} is not text: its content type is {kind}.")
    return kind or "text/html", response.charset_encoding


def _read_body(response: httpx.Response, shown: str, max_bytes: int) -> bytes:
    """The body, never holding more than the limit."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise PageError(f"{shown} is compressed by {encoding}, which was not asked for.")
    inflater = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
    content = bytearray()
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
    if inflater is not None and not inflater.eof:
        raise PageError(f"{shown} cannot be decompressed: it ends too early.")
    return bytes(content)


def _is_binary(content: bytes, charset: str | None) -> bool:
    wide = (charset or "").lower().startswith(("utf-16", "utf-32", "utf16", "utf32"))
    return b"\0" in content[:4096] and not wide and not content.startswith((b"\xff\xfe", b"\xfe\xff"))
