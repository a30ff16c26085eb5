"""SSRF protection: connections only to public IP addresses and configured networks, with name resolution."""

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

# Not public although `is_global` of some Python versions says so: IANA special-purpose registries, and Azure's platform
# service, which is reachable only inside its cloud.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "100::/64", "2001:2::/48", "168.63.129.16/32")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class AddressGuard:
    """Creates sockets only to allowed IP addresses. *allow* lists networks in CIDR notation."""

    def __init__(self, allow: Iterable[str]) -> None:
        self._allow = tuple(ipaddress.ip_network(network, strict=False) for network in allow)

    def allows(self, address: str) -> bool:
        """Return whether connections to the IP *address* are allowed. Raises ValueError if it is invalid."""
        ip = _embedded_ipv4(ipaddress.ip_address(address.partition("%")[0]))
        if any(ip in network for network in self._allow):
            return True
        special = ip.is_multicast or ip.is_reserved or any(ip in network for network in _SPECIAL)
        return ip.is_global and not special

    def socket(
        self, address_info: tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
    ) -> socket.socket:
        """Return a socket for *address_info*, a getaddrinfo result. Raises PermissionError if it is not allowed."""
        family, kind, protocol, _, target = address_info
        if not self.allows(target[0]):
            raise PermissionError(errno.EACCES, f"{target[0]} is not a public address")
        return socket.socket(family, kind, protocol)


def _embedded_ipv4(ip: Address) -> Address:
    """Return the IPv4 address embedded in an IPv6 address (mapped, 6to4, Teredo, NAT64), otherwise *ip*."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or ip


class Resolver(AbstractResolver):
    """Resolves host names, overridden by *connect_to* (host pattern to `address:port`).

    The URL and the `Host` header do not change. Raises ConfigError if *connect_to* is invalid.
    """

    def __init__(self, connect_to: Mapping[str, str]) -> None:
        self._table = [(pattern.lower(), *_parse_target(expand(target))) for pattern, target in connect_to.items()]
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        for pattern, address, target_port in self._table:
            if fnmatchcase(host.lower(), pattern):
                return await self._lookup(address, target_port, host)
        return await self._resolver.resolve(host, port, family)

    async def close(self) -> None:
        await self._resolver.close()

    async def _lookup(self, address: str, port: int, host: str) -> list[ResolveResult]:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return await self._resolver.resolve(address, port, socket.AF_UNSPEC)
        kind = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        return [ResolveResult(hostname=host, host=str(ip), port=port, family=kind, proto=0, flags=0)]


def _parse_target(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"crawl.fetch.connect_to: {text!r} is not address:port; use a value such as 127.0.0.1:8080")
    return address.removeprefix("[").removesuffix("]"), int(port)
