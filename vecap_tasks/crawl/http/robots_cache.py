"""Policies of hosts (robots.txt and tdmrep.json), read once and cached."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from vecap_tasks.config import FetchConfig
from vecap_tasks.crawl.http.path_rules import PathRules
from vecap_tasks.crawl.http.robots import ALLOW_ALL, MAX_BYTES, Robots, RobotsPolicy, parse_robots
from vecap_tasks.errors import Failure, failure_of

_LIFETIME = 24 * 3600.0  # seconds; RFC 9309, section 2.4
_FAILED_LIFETIME = 600.0  # seconds
_MIN_FAILED_LIFETIME = 1.0  # seconds, if the server requests a shorter wait
_SMALL = 1 << 13  # bytes that are parsed on the event loop; more takes milliseconds
Read = Callable[[str], Awaitable[bytes]]
T = TypeVar("T")


class RobotsCache:
    """Caches the policies of all hosts. *read* downloads a small file or raises Failure."""

    def __init__(self, config: FetchConfig, product: str, read: Read) -> None:
        self._config = config
        self._product = product
        self._read = read
        self._policies: dict[str, tuple[float, RobotsPolicy]] = {}
        self._pending: dict[str, asyncio.Task[RobotsPolicy]] = {}

    async def policy(self, origin: str) -> RobotsPolicy:
        """Return the policy of *origin*, such as `https://example.org`."""
        loop = asyncio.get_running_loop()
        until, policy = self._policies.get(origin, (0.0, None))
        if policy is not None and loop.time() < until:
            return policy
        if origin not in self._pending:
            self._pending[origin] = asyncio.create_task(self._load(origin))
        # Cancelling one download must not cancel the task that others wait for.
        return await asyncio.shield(self._pending[origin])

    def evict(self, host: str) -> None:
        for scheme in ("http", "https"):
            self._policies.pop(f"{scheme}://{host}", None)

    async def close(self) -> None:
        for task in self._pending.values():
            task.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    async def _load(self, origin: str) -> RobotsPolicy:
        try:
            policy = await self._load_policy(origin)
        except Exception as error:
            policy = RobotsPolicy(forbidden=failure_of(error, f"robots.txt of {origin}"))
        finally:
            del self._pending[origin]
        self._policies[origin] = asyncio.get_running_loop().time() + _lifetime(policy.forbidden), policy
        return policy

    async def _load_policy(self, origin: str) -> RobotsPolicy:
        """Read robots.txt and tdmrep.json. RFC 9309, section 2.3.1, defines the handling of errors.

        A host whose robots.txt is unreachable or overloaded is not crawled for now; other 4xx allow all.
        """
        robots = ALLOW_ALL
        if self._config.robots:
            try:
                body = await self._read(f"{origin}/robots.txt")
            except Failure as failure:
                unavailable = failure.reason.startswith("http_") or failure.reason == "too_many_redirects"
                if failure.temporary or failure.reason.startswith("http_5") or not unavailable:
                    wait = failure.retry_after
                    return RobotsPolicy(forbidden=Failure(failure.reason, "robots.txt", retry_after=wait))
            else:
                robots = await _parse(partial(parse_robots, product=self._product), body)
        tdm = ALLOW_ALL
        if self._config.tdmrep and robots.allows(f"{origin}/.well-known/tdmrep.json"):
            try:
                tdm = await _parse(parse_tdmrep, await self._read(f"{origin}/.well-known/tdmrep.json"))
            except Failure:
                tdm = ALLOW_ALL  # most hosts have no tdmrep.json
        return RobotsPolicy(robots, tdm)


def _lifetime(forbidden: Failure | None) -> float:
    """Return the seconds for which a policy is cached."""
    if forbidden is None:
        return _LIFETIME
    if forbidden.retry_after is None:
        return _FAILED_LIFETIME
    return min(max(forbidden.retry_after, _MIN_FAILED_LIFETIME), _FAILED_LIFETIME)


async def _parse(parse: Callable[[bytes], T], body: bytes) -> T:
    """Return the result of *parse*, outside the event loop for a long *body*."""
    if len(body) <= _SMALL:
        return parse(body)
    return await asyncio.get_running_loop().run_in_executor(None, parse, body)


def parse_tdmrep(body: bytes) -> Robots:
    """Return the paths that a tdmrep.json (TDM Reservation Protocol, W3C community group) reserves, as disallowed.

    It is a list of {location, tdm-reservation, tdm-policy}; a location is a path pattern as in robots.txt, and the
    longest match applies. Invalid entries reserve nothing. Policies (license offers) are ignored.
    """
    try:
        entries = json.loads(body[:MAX_BYTES])
    except (ValueError, RecursionError):
        return ALLOW_ALL
    return Robots(PathRules(filter(None, map(_rule, entries if isinstance(entries, list) else [entries]))))


def _rule(entry: Any) -> tuple[bool, bytes] | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("location"), str):
        return None
    location: str = entry["location"]
    return str(entry.get("tdm-reservation")).strip() != "1", location.strip().encode("utf-8", "replace")
