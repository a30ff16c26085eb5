"""Where a crawl may connect to: public addresses, and the networks that the configuration allows.

A page can name any address, and a name server can answer with any. So the check is made on the address of each
socket just before it connects: neither a redirect nor a name that changes its address gets past it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Not for the public, though `is_global` of this Python says so of some: the IANA special-purpose registries, and
# Azure's platform service, which answers inside a cloud alone.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "100::/64", "2001:2::/48", "168.63.129.16/32")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Guard:
    """Makes sockets to allowed addresses only. *allow* holds networks in CIDR notation."""

    def __init__(self, allow: Iterable[str]) -> None:
        self._allow = tuple(ipaddress.ip_network(network, strict=False) for network in allow)

    def allows(self, address: str) -> bool:
        """Say whether the numeric *address* may be connected to. Raises ValueError where it is none."""
        ip = _inner(ipaddress.ip_address(address.partition("%")[0]))
        if any(ip in network for network in self._allow):
            return True
        special = ip.is_multicast or ip.is_reserved or any(ip in network for network in _SPECIAL)
        return ip.is_global and not special

    def socket(self, where: tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]) -> socket.socket:
        """Make the socket that will connect to *where*, as getaddrinfo gives it. Raises PermissionError."""
        family, kind, protocol, _, place = where
        if not self.allows(place[0]):
            raise PermissionError(errno.EACCES, f"{place[0]} is not a public address")
        return socket.socket(family, kind, protocol)


def _inner(ip: Address) -> Address:
    """Return the IPv4 address that an IPv6 one carries (mapped, 6to4, Teredo, NAT64), else *ip*."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or ip
