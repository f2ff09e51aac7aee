"""Requests to other machines: which addresses they reach, where redirects lead, and that they end in time."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqstack.outbound import AddressRules, RequestFailed, RequestRefused, RequestTimeout, open_url, request
from support.certificates import Authority

HERE = AddressRules(["127.0.0.1"])
PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
NOT_PUBLIC = [
    *("127.0.0.1", "127.8.9.10", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "192.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::7f00:1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1"),
    *("ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "2002:7f00:1::"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:0:808:808:0:0:80ff:fffe", "no address", ""),
]
NONE = AddressRules([])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert NONE.may_reach("host", address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_other_addresses_may_not(address: str) -> None:
    assert not NONE.may_reach("host", address)


@given(st.ip_addresses(v=4))
def test_an_address_within_an_ipv6_address_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    expected = NONE.may_reach("host", str(address))
    number = int(address)
    for wrapped in ((0xFFFF << 32) | number, (0x64FF9B << 96) | number, (0x2002 << 112) | number << 80):
        assert NONE.may_reach("host", str(ipaddress.IPv6Address(wrapped))) == expected


@given(st.text())
def test_no_text_breaks_the_rules(text: str) -> None:
    assert AddressRules([text]).may_reach("host", text) in (True, False)


def test_exceptions_name_addresses_networks_and_hosts() -> None:
    rules = AddressRules(["10.1.0.0/16", "192.168.7.7", "fd00::/8", "[::1]", "Intranet.local."])
    for address in ("10.1.2.3", "192.168.7.7", "fd00::1", "::1", "::ffff:10.1.2.3"):
        assert rules.may_reach("host", address), address
    for address in ("10.2.0.1", "192.168.7.8", "127.0.0.1", "169.254.169.254"):
        assert not rules.may_reach("host", address), address
    assert rules.may_reach("intranet.LOCAL", "169.254.1.1")
    assert not rules.may_reach("intranet.local.example", "169.254.1.1")


class Server:
    """A TCP server of this machine that answers each connection by a function, and counts connections."""

    peek = 0

    def __init__(self, answer: Callable[[socket.socket, Server], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.requests: list[bytes] = []
        self.closed = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            link, _ = self._listener.accept()
            with link, contextlib.suppress(OSError):
                if self.closed.is_set():
                    return
                self.requests.append(link.recv(65536, self.peek))
                self._answer(link, self)

    def close(self) -> None:
        self.closed.set()
        with socket.create_connection(("127.0.0.1", self.port)):
            self._thread.join()
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts servers. An answer is bytes, or a function of the connection and the server."""
    servers = []

    def start(answer: bytes | Callable[[socket.socket, Server], None]) -> Server:
        sender = answer if callable(answer) else lambda link, _: link.sendall(answer)
        servers.append(Server(sender))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def response(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def fetch(url: str, rules: AddressRules = HERE, seconds: float = 20, **options: object) -> bytes:
    with open_url(url, rules=rules, seconds=seconds, **options) as got:  # type: ignore[arg-type]
        return b"".join(got.iter_raw())


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let the system's resolver give these addresses, one list per call; returns the hosts that were asked for."""
    asked: list[str] = []
    plain = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: int, **kwargs: int) -> list[object]:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return list(plain(host, port, *args, **kwargs))
        found = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::ffff:127.0.0.1]", "0"]
)
def test_no_spelling_of_this_machine_is_reached(serve: Callable[..., Server], host: str) -> None:
    server = serve(response(b"secret"))
    with pytest.raises(RequestFailed):
        fetch(f"http://{host}:{server.port}/", NONE)
    assert server.requests == []


def test_the_message_says_how_to_allow_it(serve: Callable[..., Server]) -> None:
    server = serve(response(b"secret"))
    with pytest.raises(RequestRefused) as caught:
        fetch(f"http://name:word@127.0.0.1:{server.port}/x", NONE)
    assert str(caught.value) == (
        f"http://127.0.0.1:{server.port}/x is not requested: 127.0.0.1 has the address 127.0.0.1, which is not public. "
        "To allow it, add 127.0.0.1 to RQSTACK_PRIVATE_HOSTS."
    )


def test_a_name_is_judged_by_its_address(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(response(b"secret"))
    resolve_to(monkeypatch, ["127.0.0.1"])
    with pytest.raises(RequestRefused):
        fetch(f"http://public.example:{server.port}/", NONE)
    assert fetch(f"http://intranet:{server.port}/", AddressRules(["intranet"])) == b"secret"


def test_the_address_that_was_checked_is_connected_to(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that changes its address between two look-ups gains nothing: there is one look-up."""
    server = serve(response(b"the allowed one"))
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    assert fetch(f"http://rebinding.example:{server.port}/") == b"the allowed one"
    assert asked == ["rebinding.example"]


def test_of_several_addresses_only_allowed_ones_are_tried(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    plain = socket.create_connection

    def create_connection(address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        tried.append(address[0])
        return plain(address, *args, **kwargs)  # type: ignore[arg-type]

    server = serve(response(b"x"))
    resolve_to(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    monkeypatch.setattr(socket, "create_connection", create_connection)
    assert fetch(f"http://two.example:{server.port}/") == b"x"
    assert tried == ["127.0.0.1"]


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/", "http://169.254.169.254/latest", "//127.0.0.2:{port}/"])
def test_each_redirect_is_checked(serve: Callable[..., Server], target: str) -> None:
    inner = serve(response(b"secret"))
    server = serve(response(status="302 Found", Location=target.format(port=inner.port)))
    with pytest.raises(RequestRefused, match="which is not public"):
        fetch(server.url)
    assert inner.requests == []


def test_bodies_of_redirects_are_not_read(serve: Callable[..., Server]) -> None:
    """They are neither read nor inflated, however long they are."""
    sent = []
    final = serve(response(b"the page"))

    def bomb(link: socket.socket, server: Server) -> None:
        head = ("HTTP/1.1 302 Found", f"Location: {final.url}", "Content-Encoding: gzip", "Content-Length: 999999999")
        link.sendall("\r\n".join([*head, "", ""]).encode())
        piece = gzip.compress(bytes(10_000_000))
        for _ in range(2000):
            link.sendall(piece)
            sent.append(len(piece))

    assert fetch(serve(bomb).url) == b"the page"
    assert sum(sent) < 16_000_000


def test_a_post_becomes_a_get_as_in_browsers_or_stays_one(serve: Callable[..., Server]) -> None:
    for status, expected in ((302, b"GET"), (303, b"GET"), (307, b"POST"), (308, b"POST")):
        final = serve(response(b"x"))
        server = serve(response(status=f"{status} Moved", Location=final.url))
        assert fetch(server.url, method="POST", content=b"data") == b"x"
        assert final.requests[0].startswith(expected)
        assert (b"Content-Length: 4" in final.requests[0]) == (expected == b"POST")


def test_headers_stay_with_the_host_that_they_are_for(serve: Callable[..., Server]) -> None:
    final = serve(response(b"x"))
    other = serve(response(status="302 Found", Location=final.url))
    fetch(other.url, headers={"Authorization": "Bearer token"})
    assert b"Bearer token" in other.requests[0]
    assert b"Bearer token" not in final.requests[0]


def test_another_host_can_be_ruled_out(serve: Callable[..., Server]) -> None:
    server = serve(response(status="302 Found", Location="http://elsewhere.example/"))
    with pytest.raises(RequestRefused, match="another host, elsewhere"):
        fetch(server.url, same_host=True)


def test_a_redirect_from_https_to_http_can_be_ruled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def send(request: httpx.Request, *_: object) -> httpx.Response:
        sent.append(str(request.url))
        return httpx.Response(307, headers={"Location": "http://shop.example/hook"}, request=request)

    monkeypatch.setattr("rqstack.outbound.request._send", send)
    with pytest.raises(RequestRefused, match="redirects to http"):
        fetch("https://shop.example/hook", method="POST", content=b"data", same_host=True)
    assert sent == ["https://shop.example/hook"]


@pytest.mark.parametrize("url", ["http://me:sesame@h:port/", "http://me:sesame@[::1/", "http://me:sesame@h/\x07"])
def test_the_message_about_a_wrong_url_has_no_password(url: str) -> None:
    with pytest.raises(RequestFailed, match="not a web address") as caught:
        fetch(url)
    assert "sesame" not in str(caught.value)


def drip(prefix: bytes, piece: bytes) -> Callable[[socket.socket, Server], None]:
    def answer(link: socket.socket, server: Server) -> None:
        link.sendall(prefix)
        while not server.closed.wait(0.01):
            link.sendall(piece)

    return answer


@pytest.mark.parametrize(
    ("prefix", "piece"),
    [
        (b"", b""),
        (b"", b"H"),
        (b"HTTP/1.1 ", b"1"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["silence", "bytes", "status", "header", "informational", "body", "chunks"],
)
def test_one_deadline_ends_everything(serve: Callable[..., Server], prefix: bytes, piece: bytes) -> None:
    server = serve(drip(prefix, piece))
    with pytest.raises(RequestFailed) as caught:
        fetch(server.url, seconds=0.3)
    # A status or header that is too long may be refused before the deadline.
    assert isinstance(caught.value, RequestTimeout) or "not HTTP" in str(caught.value)
    assert server.url in str(caught.value)


def test_slow_redirects_share_the_deadline(serve: Callable[..., Server]) -> None:
    def answer(link: socket.socket, server: Server) -> None:
        server.closed.wait(0.2)
        link.sendall(response(status="302 Found", Location="/"))

    server = serve(answer)
    with pytest.raises(RequestTimeout, match=r"took longer than 0\.5 seconds"):
        fetch(server.url, seconds=0.5)
    assert len(server.requests) <= 3


def test_a_slow_resolver_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: done.wait(30) and [])
    try:
        with pytest.raises(RequestTimeout):
            fetch("http://slow.example/", seconds=0.2)
    finally:
        done.set()


def test_a_reader_who_does_not_read_ends_too(serve: Callable[..., Server]) -> None:
    server = serve(lambda link, server: server.closed.wait(30) and None)
    begun = time.monotonic()
    with pytest.raises(RequestTimeout):
        fetch(server.url, seconds=0.5, method="POST", content=bytes(50_000_000))
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\1\2",
        b"220 ready\r\n\r\n",
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://x:99999999/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http:// \xff\xfe\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    ],
)
def test_no_answer_raises_another_error(serve: Callable[..., Server], answer: bytes) -> None:
    server = serve(answer)
    with pytest.raises(RequestFailed) as caught:
        fetch(server.url)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=300))
def test_no_bytes_raise_another_error(answer: bytes) -> None:
    server = Server(lambda link, _: link.sendall(b"HTTP/1.1 3" + answer))
    try:
        with contextlib.suppress(RequestFailed):
            fetch(server.url, seconds=2)
    finally:
        server.close()


def test_the_error_of_the_caller_stays_its_own(serve: Callable[..., Server]) -> None:
    server = serve(response(b"x"))
    with pytest.raises(ValueError, match="mine"), open_url(server.url, rules=HERE):
        raise ValueError("mine")


def test_a_proxy_of_the_environment_is_used(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is reached though it is private; what it is asked for is checked as far as this machine can resolve it."""
    proxy = serve(response(b"by the proxy"))
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "direct.example")
    assert fetch("http://unknown.invalid/page", NONE) == b"by the proxy"
    assert proxy.requests[0].startswith(b"GET http://unknown.invalid/page HTTP/1.1")
    with pytest.raises(RequestRefused):
        fetch("http://127.0.0.2/", NONE)
    resolve_to(monkeypatch, ["127.0.0.1"])
    direct = serve(response(b"direct"))
    assert fetch(f"http://direct.example:{direct.port}/") == b"direct"
    assert len(proxy.requests) == 1


def test_certificates_are_checked_by_the_name_of_the_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("secure.example"))

    def answer(link: socket.socket, _: Server) -> None:
        with context.wrap_socket(link, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(response(b"secret"))

    # The server reads a little before it answers, which TLS cannot have.
    monkeypatch.setattr(Server, "peek", socket.MSG_PEEK)
    server = serve(answer)
    resolve_to(monkeypatch, ["127.0.0.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    request._tls.cache_clear()
    try:
        assert fetch(f"https://secure.example:{server.port}/") == b"secret"
        with pytest.raises(RequestFailed, match=r"cannot be reached: .*ertificate"):
            fetch(f"https://other.example:{server.port}/")
    finally:
        request._tls.cache_clear()
