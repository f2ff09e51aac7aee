"""URLs of a Redis Cluster: redis+cluster://user:password@host1:port1,host2:port2?option=value, with TLS rediss+cluster://.

Imports next to nothing: `rqstack health` uses it every few seconds.
"""

from __future__ import annotations

SCHEMES = ("redis+cluster://", "rediss+cluster://")


def is_cluster(url: str) -> bool:
    """Whether a URL is that of a Redis Cluster."""
    return url.startswith(SCHEMES)


def node_urls(url: str) -> list[str]:
    """A plain Redis URL for each node that the URL of a cluster names, with its user, password and options."""
    scheme, _, rest = url.partition("://")
    end = min(at for at in (rest.find("/"), rest.find("?"), len(rest)) if at >= 0)
    network, tail = rest[:end], rest[end:]
    user, at, hosts = network.rpartition("@")
    return [f"{scheme.removesuffix('+cluster')}://{user}{at}{host.strip()}{tail}" for host in hosts.split(",")]
