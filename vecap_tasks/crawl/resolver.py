"""Names to addresses, with a table of hosts that are reached elsewhere, as curl's --connect-to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from fnmatch import fnmatchcase

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from vecap_tasks.config import expand
from vecap_tasks.errors import ConfigError


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
