"""Decides which addresses a request may go to: public ones, and those that the settings except."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRules:
    """Which hosts and addresses requests may reach.

    Args:
        exceptions: Addresses, networks such as 10.0.0.0/8, and host names, that are allowed although they are not
            public. A host name stands for whatever addresses it has.
    """

    def __init__(self, exceptions: Iterable[str]) -> None:
        self._hosts: set[str] = set()
        self._networks: list[IPv4Network | IPv6Network] = []
        for text in exceptions:
            try:
                self._networks.append(ip_network(text.strip("[]"), strict=False))
            except ValueError:
                self._hosts.add(_plain(text))

    def may_reach(self, host: str, address: str) -> bool:
        """Whether a request may go to an address.

        Args:
            host: The host that the URL names.
            address: An address of it, in the form that the system's resolver gives.
        """
        try:
            known = _innermost(ip_address(address))
        except ValueError:
            return False
        return _is_public(known) or _plain(host) in self._hosts or any(known in network for network in self._networks)


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else address)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    # Not by `is_global` alone: it is True for multicast, and for IPv6 it depends on the release of Python.
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)
