"""Addresses a crawl may connect to: public ones and configured networks, with name resolution."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from vecap_tasks.config import expand
from vecap_tasks.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Not for the public, though `is_global` of this Python says so of some: the IANA special-purpose registries, and
# Azure's platform service, which answers inside a cloud alone.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "100::/64", "2001:2::/48", "168.63.129.16/32")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressGuard:
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


class Resolver(AbstractResolver):
    """Looks names up, or takes the address that *connect_to* (host pattern to `address:port`) gives.

    Address and `Host` header of the request stay as they are. Raises ConfigError for a table that cannot be read.
    """

    def __init__(self, connect_to: Mapping[str, str]) -> None:
        self._table = [(pattern.lower(), *_place(expand(place))) for pattern, place in connect_to.items()]
        self._names = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        for pattern, address, other_port in self._table:
            if fnmatchcase(host.lower(), pattern):
                return await self._look_up(address, other_port, host)
        return await self._names.resolve(host, port, family)

    async def close(self) -> None:
        await self._names.close()

    async def _look_up(self, address: str, port: int, host: str) -> list[ResolveResult]:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return await self._names.resolve(address, port, socket.AF_UNSPEC)
        kind = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        return [ResolveResult(hostname=host, host=str(ip), port=port, family=kind, proto=0, flags=0)]


def _place(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"crawl.fetch.connect_to: {text!r} is not address:port, such as 127.0.0.1:8080")
    return address.removeprefix("[").removesuffix("]"), int(port)
