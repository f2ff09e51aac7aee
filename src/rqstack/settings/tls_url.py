"""The URL of a Redis that is reached by TLS.

Imports next to nothing: `rqstack health` uses it every few seconds.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from rqstack.settings.paths import home


def tls_url(url: str, ca: str | Path | None, certificate: str | Path | None, key: str | Path | None) -> str:
    """A Redis URL with redis-py's parameters for TLS. What the URL says itself wins.

    Args:
        url: A redis:// or redis+cluster:// URL becomes rediss:// or rediss+cluster:// if one of the files is given.
        ca: The certificates of the authorities that may have signed the server's; None for those of the system.
        certificate: What this client shows, if the server asks for it.
        key: Of that certificate.
    """
    if not (ca or certificate) or url.startswith("unix://"):
        return url
    scheme, _, rest = url.partition("://")
    if not scheme.startswith("rediss"):
        scheme = scheme.replace("redis", "rediss", 1)
    given = parse_qs(urlsplit(f"redis://{rest}").query)
    wanted = {"ssl_ca_certs": ca, "ssl_certfile": certificate, "ssl_keyfile": key}
    more = {name: str(home() / path) for name, path in wanted.items() if path and name not in given}
    if not {"ssl_check_hostname", "ssl_cert_reqs"} & given.keys():
        more["ssl_check_hostname"] = "true"  # not the default of redis-py below 6
    return f"{scheme}://{rest}{'&' if given else '?'}{urlencode(more)}" if more else f"{scheme}://{rest}"
