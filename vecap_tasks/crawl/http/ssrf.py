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

# All blocks of the IANA IPv4 and IPv6 Special-Purpose Address Registries (which change more often than `ipaddress` of a
# Python version), also the globally reachable ones, because they have no websites. Not listed for IPv6: what lies
# outside `_IPV6_UNICAST` (`::`, mapped addresses, 64:ff9b:1::/48, 100::/64, 100:0:0:1::/64, 5f00::/16, fc00::/7,
# fe80::/10, and the deprecated fec0::/10), and 6to4 and Teredo, which embed an IPv4 address.
_SPECIAL_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",  # multicast, reserved
        "168.63.129.16/32",  # Azure's platform service, which is reachable only inside its cloud
    )
)  # fmt: skip
_SPECIAL_IPV6 = tuple(
    ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20")
)
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AddressGuard:
    """Creates sockets only to allowed IP addresses. *allow* lists networks in CIDR notation.

    Unless *has_contact*, which tells whether the user agent names one, only these networks are allowed.
    """

    def __init__(self, allow: Iterable[str], has_contact: bool = True) -> None:
        self._has_contact = has_contact
        self._allow = tuple(ipaddress.ip_network(network, strict=False) for network in allow)

    def allows(self, address: str) -> bool:
        """Return whether connections to the IP *address* are allowed. Raises ValueError if it is invalid."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        if self._configured(ip):
            return True
        embedded = _embedded_ipv4(ip)
        if embedded:
            return all(self._configured(inner) or _is_public(inner) for inner in embedded)
        return _is_public(ip)

    def _is_configured(self, address: str) -> bool:
        """Return whether *address*, or all IPv4 addresses to which it leads, are in the configured networks."""
        ip = ipaddress.ip_address(address.partition("%")[0])
        embedded = _embedded_ipv4(ip)
        return self._configured(ip) or (bool(embedded) and all(map(self._configured, embedded)))

    def _configured(self, ip: Address) -> bool:
        return any(ip in network for network in self._allow)

    def socket(
        self, address_info: tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]
    ) -> socket.socket:
        """Return a socket for *address_info*, a getaddrinfo result.

        Raises PermissionError if it is not allowed, and ConfigError if it requires a contact.
        """
        family, kind, protocol, _, target = address_info
        if not self.allows(target[0]):
            raise PermissionError(errno.EACCES, f"{target[0]} is not a public address")
        if not self._has_contact and not self._is_configured(target[0]):
            raise ConfigError(
                "crawl.fetch.user_agent has no contact of yours (example.org is reserved); set it to a name with your "
                "URL or email address before you download from public sites"
            )
        return socket.socket(family, kind, protocol)


def _is_public(ip: Address) -> bool:
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _SPECIAL_IPV4)
    return ip in _IPV6_UNICAST and not any(ip in network for network in _SPECIAL_IPV6)


def _embedded_ipv4(ip: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the IPv4 addresses to which an IPv6 address leads: mapped, NAT64, 6to4, Teredo (server and client)."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ()
    if ip in _NAT64:
        return (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF),)
    if ip.teredo:
        return ip.teredo
    found = ip.ipv4_mapped or ip.sixtofour
    return (found,) if found else ()


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
