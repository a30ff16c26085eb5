"""What a host's owner permits: robots.txt and the W3C's /.well-known/tdmrep.json, each read once per host."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.failure import Failure, failure_of
from vecap_tasks.crawl.robots import ALLOW_ALL, MAX_BYTES, Robots, Rule, parse_robots, spelling

_LIFETIME = 24 * 3600.0  # seconds; RFC 9309, section 2.4
_FAILED_LIFETIME = 600.0  # what could not be read may be there again
Read = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Permit:
    """What holds for one host: *robots*, the paths that *tdm* reserves, or why nothing may be fetched."""

    robots: Robots = ALLOW_ALL
    tdm: Robots = ALLOW_ALL
    refused: Failure | None = None

    def check(self, url: str) -> None:
        """Raise Failure if *url* may not be fetched: `robots`, `opt_out`, or why robots.txt could not be read."""
        if self.refused is not None:
            raise Failure(self.refused.reason, self.refused.detail)
        if not self.robots.allows(url):
            raise Failure("robots")
        if not self.tdm.allows(url):
            raise Failure("opt_out", "tdmrep.json")


class Permits:
    """The permits of all hosts. *read* gets a small file from a host, or raises Failure."""

    def __init__(self, config: FetchConfig, product: str, read: Read) -> None:
        self._config = config
        self._product = product
        self._read = read
        self._made: dict[str, tuple[float, Permit]] = {}
        self._making: dict[str, asyncio.Task[Permit]] = {}

    async def of(self, origin: str) -> Permit:
        """Return the permit of *origin*, such as `https://example.org`."""
        loop = asyncio.get_running_loop()
        until, permit = self._made.get(origin, (0.0, None))
        if permit is not None and loop.time() < until:
            return permit
        if origin not in self._making:
            self._making[origin] = asyncio.create_task(self._make(origin))
        # One download's end must not end what the others of the host wait for too.
        return await asyncio.shield(self._making[origin])

    def forget(self, host: str) -> None:
        for scheme in ("http", "https"):
            self._made.pop(f"{scheme}://{host}", None)

    async def close(self) -> None:
        for task in self._making.values():
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    async def _make(self, origin: str) -> Permit:
        try:
            permit = await self._robots(origin)
        except Exception as error:
            permit = Permit(refused=failure_of(error, f"robots.txt of {origin}"))
        finally:
            del self._making[origin]
        lifetime = _LIFETIME if permit.refused is None else _FAILED_LIFETIME
        self._made[origin] = asyncio.get_running_loop().time() + lifetime, permit
        return permit

    async def _robots(self, origin: str) -> Permit:
        """Read robots.txt; what it means where it cannot be read is said in RFC 9309, section 2.3.1."""
        robots = ALLOW_ALL
        if self._config.robots:
            try:
                robots = parse_robots(await self._read(f"{origin}/robots.txt"), self._product)
            except Failure as failure:
                if failure.reason.startswith("http_5"):
                    refused = Failure("robots", f"robots.txt answers {failure.reason.removeprefix('http_')}")
                    return Permit(refused=refused)
                if not failure.reason.startswith("http_") and failure.reason != "too_many_redirects":
                    return Permit(refused=Failure(failure.reason, "robots.txt"))
        tdm = ALLOW_ALL
        if self._config.tdmrep and robots.allows(f"{origin}/.well-known/tdmrep.json"):
            try:
                tdm = parse_tdmrep(await self._read(f"{origin}/.well-known/tdmrep.json"))
            except Failure:
                tdm = ALLOW_ALL  # most hosts have none
        return Permit(robots, tdm)


def parse_tdmrep(body: bytes) -> Robots:
    """Return the paths that a tdmrep.json (TDM Reservation Protocol, W3C community group) reserves, as disallowed.

    It is a list of {location, tdm-reservation, tdm-policy}; a location is a path pattern as in robots.txt, and the
    longest that matches holds. What is not of that form reserves nothing. A policy, which offers a licence, is left
    to people.
    """
    try:
        entries = json.loads(body[:MAX_BYTES])
    except (ValueError, RecursionError):
        return ALLOW_ALL
    return Robots(tuple(filter(None, map(_rule, entries if isinstance(entries, list) else [entries]))))


def _rule(entry: Any) -> Rule | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("location"), str):
        return None
    return Rule(str(entry.get("tdm-reservation")).strip() != "1", spelling(entry["location"].strip()))
