"""What the settings of TLS make of a Redis URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis, SSLConnection

from rqstack.errors import SettingsError
from rqstack.settings import Settings
from rqstack.settings.cluster_url import node_urls
from rqstack.settings.tls_url import tls_url
from rqstack.transport.client import connect


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/0", "rediss://h:1/0?ssl_ca_certs=%2Fca&ssl_check_hostname=true"),
        ("rediss://u:p@h", "rediss://u:p@h?ssl_ca_certs=%2Fca&ssl_check_hostname=true"),
        ("rediss://h?ssl_ca_certs=/own", "rediss://h?ssl_ca_certs=/own&ssl_check_hostname=true"),
        ("rediss://h?ssl_cert_reqs=none", "rediss://h?ssl_cert_reqs=none&ssl_ca_certs=%2Fca"),
        ("redis+cluster://a:1,b:2", "rediss+cluster://a:1,b:2?ssl_ca_certs=%2Fca&ssl_check_hostname=true"),
        ("unix:///run/redis", "unix:///run/redis"),
    ],
)
def test_an_authority_turns_tls_on(url: str, expected: str) -> None:
    assert tls_url(url, "/ca", None, None) == expected
    assert tls_url(url, None, None, None) == url
    assert tls_url(expected, "/ca", None, None) == expected, "twice is once"


def test_each_node_of_a_cluster_gets_it() -> None:
    for url in node_urls(tls_url("redis+cluster://a:1,b:2", "/ca", "/cert", "/key")):
        assert url.startswith("rediss://")
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert query == {
            "ssl_ca_certs": "/ca",
            "ssl_certfile": "/cert",
            "ssl_keyfile": "/key",
            "ssl_check_hostname": "true",
        }


@given(st.text(min_size=1).filter(lambda name: "\0" not in name))
def test_any_file_name_comes_through(name: str) -> None:
    url = tls_url("redis://h:1/0", f"/{name}", None, None)
    assert parse_qs(urlsplit(url).query)["ssl_ca_certs"] == [str(Path(f"/{name}"))]


def test_clients_check_the_host_by_the_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    client = connect(Settings(redis_url="redis://h:1/0", redis_tls_ca=Path("ca.pem")))
    assert isinstance(client, Redis)
    assert client.connection_pool.connection_class is SSLConnection
    options = client.connection_pool.connection_kwargs
    assert options["ssl_ca_certs"] == str(tmp_path / "ca.pem"), "relative to the home"
    assert options["ssl_check_hostname"] is True


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="REDIS_TLS_KEY is not set"):
        Settings(redis_tls_cert=Path("cert.pem"))
    with pytest.raises(SettingsError, match="REDIS_TLS_CERT is not set"):
        Settings(redis_tls_key=Path("key.pem"))
    with pytest.raises(SettingsError, match=rf"REDIS_TLS_CA: {tmp_path}/ca.pem is not a file"):
        connect(Settings(redis_tls_ca=Path("ca.pem")))
