"""robots.txt (RFC 9309) and machine-use opt-outs, parsed and cached per host."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vecap_tasks.config import FetchConfig
from vecap_tasks.errors import Failure, failure_of

TDM = "tdm-reservation"

_NO = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
MAX_BYTES = 500 * 1024  # section 2.5: at least this much is parsed
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_TOKEN = re.compile(r"[A-Za-z_-]+")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_LIFETIME = 24 * 3600.0  # seconds; RFC 9309, section 2.4
_FAILED_LIFETIME = 600.0  # what could not be read may be there again
Read = Callable[[str], Awaitable[bytes]]


def opted_out(values: Iterable[str], product: str, *, listing: bool = False) -> str | None:
    """Return the first rule of *values* that forbids our use, else None. *product* is our name in robots.txt.

    `noindex` of a *listing*, such as a sitemap, keeps the list itself out of an index, and not what it lists.
    """
    forbidding = _NO - {"noindex"} if listing else _NO
    for value in values:
        applies = True
        for part in value.split(","):
            rule = part.strip().lower()
            name, colon, rest = (word.strip() for word in rule.partition(":"))
            if colon and name in _VALUED:
                continue
            if name == TDM:
                if rest == "1":
                    return TDM
                continue
            if colon and " " not in name:
                applies = name == product.lower()
                rule = rest
            if applies and rule in forbidding:
                return rule
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """One Allow or Disallow line; *pattern* in the spelling that paths are compared in."""

    allow: bool
    pattern: bytes

    def matches(self, path: bytes) -> bool:
        """Match without backtracking, so that no pattern is slow: each piece between `*` at its first place."""
        anchored = self.pattern.endswith(b"$")
        pieces = (self.pattern[:-1] if anchored else self.pattern).split(b"*")
        if not path.startswith(pieces[0]):
            return False
        position = len(pieces[0])
        for piece in pieces[1:-1]:
            found = path.find(piece, position)
            if found < 0:
                return False
            position = found + len(piece)
        last = pieces[-1]
        if len(pieces) == 1:
            return not anchored or len(path) == position
        if anchored:
            return len(path) - len(last) >= position and path.endswith(last)
        return path.find(last, position) >= 0


@dataclass(frozen=True, slots=True)
class Robots:
    """The rules that hold for one robot on one host; *delay* is its Crawl-delay, seconds."""

    rules: tuple[Rule, ...] = ()
    delay: float | None = None

    def allows(self, url: str) -> bool:
        """Say whether the address may be fetched."""
        if not self.rules:
            return True
        parts = urlsplit(url)
        target = parts.path or "/"
        if target == "/robots.txt":
            return True
        path = spelling(f"{target}?{parts.query}" if parts.query else target)
        matching = [rule for rule in self.rules if rule.matches(path)]
        if not matching:
            return True
        longest = max(len(rule.pattern) for rule in matching)
        return any(rule.allow for rule in matching if len(rule.pattern) == longest)


ALLOW_ALL = Robots()


def product_token(user_agent: str) -> str:
    """Return the name that robots.txt calls us by: the user agent up to the first other character."""
    match = _TOKEN.match(user_agent)
    return match[0].lower() if match else "*"


def parse_robots(body: bytes, product: str) -> Robots:
    """Return the rules for *product* in a robots.txt: of its own groups, else of the groups for `*`.

    Crawl-delay is none of RFC 9309's; where several are given the longest holds.
    """
    own: list[Rule] = []
    others: list[Rule] = []
    own_delay: float | None = None
    other_delay: float | None = None
    named = False
    agents: set[str] = set()
    ruled = True  # the group has rules already: a user-agent line begins another
    for line in body[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            if ruled:
                agents, ruled = set(), False
            token = _TOKEN.match(value)
            agents.add("*" if value.startswith("*") else token[0].lower() if token else "")
            named = named or product in agents
        elif name in ("allow", "disallow"):
            ruled = True
            if not value:
                continue
            rule = Rule(name == "allow", spelling(value))
            if product in agents:
                own.append(rule)
            if "*" in agents:
                others.append(rule)
        elif name == "crawl-delay" and _NUMBER.fullmatch(value):
            if product in agents:
                own_delay = max(own_delay or 0.0, float(value))
            if "*" in agents:
                other_delay = max(other_delay or 0.0, float(value))
    return Robots(tuple(own), own_delay) if named else Robots(tuple(others), other_delay)


def spelling(text: str) -> bytes:
    """Percent-encode what is not ASCII, and decode what need not be encoded (RFC 9309, 2.2.2)."""
    raw = text.encode("utf-8", "replace")
    raw = b"".join(bytes([byte]) if 0x20 < byte < 0x7F else b"%%%02X" % byte for byte in raw)

    def one(match: re.Match[bytes]) -> bytes:
        byte = int(match[1], 16)
        plain = bytes([byte])
        return plain if plain.isalnum() or plain in (b"-", b".", b"_", b"~") else b"%%%02X" % byte

    return _ESCAPED.sub(one, raw)


@dataclass(frozen=True, slots=True)
class RobotsPolicy:
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


class RobotsCache:
    """The permits of all hosts. *read* gets a small file from a host, or raises Failure."""

    def __init__(self, config: FetchConfig, product: str, read: Read) -> None:
        self._config = config
        self._product = product
        self._read = read
        self._made: dict[str, tuple[float, RobotsPolicy]] = {}
        self._making: dict[str, asyncio.Task[RobotsPolicy]] = {}

    async def of(self, origin: str) -> RobotsPolicy:
        """Return the permit of *origin*, such as `https://example.org`."""
        loop = asyncio.get_running_loop()
        until, policy = self._made.get(origin, (0.0, None))
        if policy is not None and loop.time() < until:
            return policy
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

    async def _make(self, origin: str) -> RobotsPolicy:
        try:
            policy = await self._robots(origin)
        except Exception as error:
            policy = RobotsPolicy(refused=failure_of(error, f"robots.txt of {origin}"))
        finally:
            del self._making[origin]
        lifetime = _LIFETIME if policy.refused is None else _FAILED_LIFETIME
        self._made[origin] = asyncio.get_running_loop().time() + lifetime, policy
        return policy

    async def _robots(self, origin: str) -> RobotsPolicy:
        """Read robots.txt; what it means where it cannot be read is said in RFC 9309, section 2.3.1."""
        robots = ALLOW_ALL
        if self._config.robots:
            try:
                robots = parse_robots(await self._read(f"{origin}/robots.txt"), self._product)
            except Failure as failure:
                if failure.reason.startswith("http_5"):
                    refused = Failure("robots", f"robots.txt answers {failure.reason.removeprefix('http_')}")
                    return RobotsPolicy(refused=refused)
                if not failure.reason.startswith("http_") and failure.reason != "too_many_redirects":
                    return RobotsPolicy(refused=Failure(failure.reason, "robots.txt"))
        tdm = ALLOW_ALL
        if self._config.tdmrep and robots.allows(f"{origin}/.well-known/tdmrep.json"):
            try:
                tdm = parse_tdmrep(await self._read(f"{origin}/.well-known/tdmrep.json"))
            except Failure:
                tdm = ALLOW_ALL  # most hosts have none
        return RobotsPolicy(robots, tdm)


def parse_tdmrep(body: bytes) -> Robots:
    """Return the paths that a tdmrep.json (TDM Reservation Protocol, W3C community group) reserves, as disallowed.

    It is a list of {location, tdm-reservation, tdm-policy}; a location is a path pattern as in robots.txt, and the
    longest that matches holds. What is not of that form reserves nothing. A policy, which offers a license, is left
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
