"""The word count, against a real HTTP server."""

from __future__ import annotations

import gzip
import importlib
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqstack.settings import get_settings

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tasks" / "wordcount"))

errors = importlib.import_module("wordcount.errors")
fetching = importlib.import_module("wordcount.fetch")
text = importlib.import_module("wordcount.text")
tasks = importlib.import_module("wordcount.tasks")

HTML = "text/html; charset=utf-8"


class Site(ThreadingHTTPServer):
    """Serves what a test puts into `pages`: path -> (status, headers, body or a callable that writes it)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, tuple[int, dict[str, str], Any]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.stop = threading.Event()

    def page(self, body: Any, kind: str | None = HTML, status: int = 200, **headers: str) -> str:
        path = f"/{len(self.pages)}"
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, names | ({"Content-Type": kind} if kind else {}), body)
        return self.url + path


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        status, headers, body = self.server.pages.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if callable(body):
            self.end_headers()
            body(self)
            return
        content = body.encode() if isinstance(body, str) else body
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server on this machine, which requests may reach."""
    monkeypatch.setenv("RQSTACK_PRIVATE_HOSTS", "127.0.0.1")
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()


def count(url: str) -> int:
    return int(tasks.count_words_at_url(url))


def reason(url: Any, **limits: Any) -> str:
    with pytest.raises(errors.PageError) as caught:
        fetching.fetch(url, **limits)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_counts_what_a_page_shows(site: Site) -> None:
    page = """<!doctype html><html><head><title>A title</title><style>p { color: red }</style></head>
    <body><script>var not = "<p>counted</p>";</script><!-- nor this --><p>One<b>half</b> and two</p>
    <ul><li>three<li>four</ul><table><tr><td>a<td>b</table>it&rsquo;s 3.14 caf&eacute;</body></html>"""
    #        A title Onehalf and two three four a b it's 3.14 café
    assert count(site.page(page)) == 12


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", 0),
        ("— … ! ,", 0),
        ("can't stop", 2),
        ("e-mail", 2),
        ("foo_bar 3.14", 2),
        ("Здравствуй, мир", 2),
        ("日本語", 3),
        ("テスト", 1),
        ("naïve nai\u0308ve", 2),
        ("a\nb\tc\u00a0d", 4),
        ("مرحبا بالعالم", 2),
    ],
)
def test_words_are_unicodes(words: str, expected: int) -> None:
    assert text.count_words(words) == expected


@given(st.lists(st.from_regex(r"[A-Za-zäöüßéñжд]+", fullmatch=True)))
def test_as_many_words_as_were_joined(words: list[str]) -> None:
    assert text.count_words(" ".join(words)) == len(words)


@given(st.binary(max_size=400), st.sampled_from([None, "utf-8", "latin-1", "utf-16", "no-such-charset"]), st.booleans())
def test_no_bytes_break_it(content: bytes, charset: str | None, markup: bool) -> None:
    page = fetching.Page("http://x/", content, charset, markup)
    assert text.count_words(text.visible_text(page)) >= 0


@pytest.mark.parametrize("nested", ["<div>", "<b>", "<table>", "<p><b>", "<ul><li>", "<a b='", "<!--"])
def test_a_deep_page_is_counted_in_linear_time(nested: str) -> None:
    page = fetching.Page("http://x/", nested.encode() * 300_000 + b"word", "utf-8", True)
    # Minutes where the parser is quadratic: the test's own time limit would end it.
    assert text.count_words(text.visible_text(page)) <= 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("naïve café".encode(), HTML),
        ("naïve café".encode("latin-1"), "text/html; charset=iso-8859-1"),
        ('<meta charset="windows-1252">naïve café'.encode("windows-1252"), "text/html"),
        ("naïve café".encode("windows-1252"), "text/html"),
        ("naïve café".encode(), "text/html; charset=no-such-charset"),
        ("naïve café".encode("utf-16"), "text/plain"),
        ("naïve café".encode("utf-16-le"), "text/plain; charset=utf-16-le"),
        ("naïve café".encode("utf-8-sig"), "text/plain"),
    ],
)
def test_charsets(site: Site, body: bytes, kind: str) -> None:
    page = fetching.fetch(site.page(body, kind))
    assert text.visible_text(page).strip() == "naïve café"


@pytest.mark.parametrize(
    "name",
    ["undefined", "idna", "punycode", "zlib", "rot13", "utf-7", "unicode_escape", "mbcs", "utf-8\0", "x" * 5000, "é"],
)
@pytest.mark.parametrize("where", ["header", "page"])
def test_odd_charsets_raise_nothing(name: str, where: str) -> None:
    body = (f'<meta charset="{name}">' if where == "page" else "").encode() + b"one two \\ud800 \xff " * 100_000
    page = fetching.Page("http://x/", body, name if where == "header" else None, True)
    assert text.count_words(text.visible_text(page)) >= 200_000


def test_a_private_address_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RQSTACK_PRIVATE_HOSTS")
    get_settings.cache_clear()
    assert "127.0.0.1 has the address 127.0.0.1, which is not public" in reason(site.page("secret"))


def test_a_redirect_s_body_is_never_inflated(site: Site) -> None:
    import tracemalloc

    target = site.page("one two three")
    bomb = gzip.compress(bytes(200_000_000), 9)
    url = site.page(bomb, status=302, Location=target, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        assert count(url) == 3
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_no_password_is_in_a_message(site: Site) -> None:
    url = site.page("x", status=404).replace("http://", "http://name:word@")
    assert "word" not in reason(url)


def test_a_url_without_a_scheme_means_http(site: Site) -> None:
    assert count(site.page("one two").removeprefix("http://")) == 2


def test_plain_text_keeps_its_angle_brackets(site: Site) -> None:
    assert count(site.page("a <b> c", "text/plain")) == 3


def test_a_page_without_a_content_type_is_html(site: Site) -> None:
    assert count(site.page("<p>one</p>", None)) == 1


def test_redirects_are_followed(site: Site) -> None:
    target = site.page("one two three")
    assert count(site.page("", status=302, Location=target)) == 3


def test_a_redirect_loop_ends(site: Site) -> None:
    site.pages["/loop"] = (302, {"Location": "/loop"}, b"")
    assert reason(f"{site.url}/loop") == f"{site.url}/loop redirects more than 5 times."


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:6379/_INFO"])
def test_a_redirect_leaves_http_never(site: Site, target: str) -> None:
    url = site.page("", status=302, Location=target)
    assert reason(url) == f"{url} redirects to an address that is neither http nor https."


@pytest.mark.parametrize(
    "url",
    ["", "  ", "file:///etc/passwd", "ftp://x/y", "http://", "http://[::1", "javascript:alert(1)", "://", 5, None],
)
def test_what_is_no_web_address(url: Any) -> None:
    assert "is not a web address" in reason(url)


def test_refused(site: Site) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert reason(url) == f"{url} cannot be reached: connection refused."


def test_no_such_host() -> None:
    assert "http://no-such-host.invalid" in reason("no-such-host.invalid")


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Not Found"), (500, "500 Internal Server Error"), (304, "304")]
)
def test_a_status_that_is_no_page(site: Site, status: int, words: str) -> None:
    url = site.page("x", status=status)
    assert reason(url).startswith(f"{url} answered {words}")


def test_binary_by_type(site: Site) -> None:
    url = site.page(b"\x89PNG", "image/png")
    assert reason(url) == f"{url} is not text: its content type is image/png."


def test_binary_in_spite_of_its_type(site: Site) -> None:
    url = site.page(b"\x7fELF\x00\x01", "text/html")
    assert reason(url) == f"{url} is not text: its content is binary."


def test_too_long(site: Site) -> None:
    assert reason(site.page("x " * 501), max_bytes=1000).endswith("is longer than 0.001 MB.")
    assert len(fetching.fetch(site.page("x " * 500), max_bytes=1000).content) == 1000


def test_gzip(site: Site) -> None:
    assert count(site.page(gzip.compress(b"one two three"), Content_Encoding="gzip")) == 3


def test_a_gzip_bomb_is_never_inflated(site: Site) -> None:
    import tracemalloc

    url = site.page(gzip.compress(bytes(200_000_000), 9), Content_Encoding="gzip")
    tracemalloc.start()
    try:
        assert reason(url).endswith("is longer than 5 MB.")
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "encoding", "words"),
    [
        (b"no gzip", "gzip", "cannot be decompressed"),
        (gzip.compress(b"one two three" * 50)[:-12], "gzip", "ends too early"),
        (b"x", "br", "compressed by br"),
    ],
    ids=["not-gzip", "cut-short", "brotli"],
)
def test_wrong_compression(site: Site, body: bytes, encoding: str, words: str) -> None:
    assert words in reason(site.page(body, Content_Encoding=encoding))


def test_a_slow_drip_ends(site: Site) -> None:
    def drip(handler: Handler) -> None:
        try:
            while not site.stop.wait(0.02):
                handler.wfile.write(b"x ")
                handler.wfile.flush()
        except OSError:
            pass

    url = site.page(drip)
    assert reason(url, max_seconds=0.3) == f"{url} took longer than 0.3 seconds."


def test_silence_ends(site: Site) -> None:
    url = site.page(lambda handler: site.stop.wait(20))
    assert "took longer than 0.3 seconds" in reason(url, max_seconds=0.3)


def test_what_is_no_http(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            link, _ = server.accept()
            with link:
                link.recv(1000)
                link.sendall(b"220 ready\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        message = reason(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
        assert "answered something that is not HTTP" in message


def test_importing_the_task_loads_no_client() -> None:
    import subprocess

    code = "import sys; import wordcount.tasks; print(sorted({'httpx', 'lxml', 'regex'} & set(sys.modules)))"
    folder = str(ROOT / "tasks" / "wordcount")
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
