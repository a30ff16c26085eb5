"""robots.txt (RFC 9309) and machine-use opt-outs, parsed and cached per host."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vecap_tasks.errors import Failure, failure_of

if TYPE_CHECKING:  # pydantic takes long to import, and child processes do not need it
    from vecap_tasks.config import FetchConfig

TDM = "tdm-reservation"

_OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none"})
_RULES_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
MAX_BYTES = 500 * 1024  # RFC 9309, section 2.5: minimum to parse
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_TOKEN = re.compile(r"[A-Za-z_-]+")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_LIFETIME = 24 * 3600.0  # seconds; RFC 9309, section 2.4
_FAILED_LIFETIME = 600.0  # seconds
Read = Callable[[str], Awaitable[bytes]]


def opted_out(values: Iterable[str], product: str, *, listing: bool = False) -> str | None:
    """Return the first rule of *values* that forbids our use, or None. *product* is our name in robots.txt.

    `noindex` on a *listing*, such as a sitemap, applies to the list itself, not to the pages it lists.
    """
    forbidding = _OPT_OUTS - {"noindex"} if listing else _OPT_OUTS
    for value in values:
        applies = True
        for part in value.split(","):
            rule = part.strip().lower()
            name, colon, rest = (word.strip() for word in rule.partition(":"))
            if colon and name in _RULES_WITH_VALUE:
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
    """One Allow or Disallow line; *pattern* is normalized like paths."""

    allow: bool
    pattern: bytes

    def matches(self, path: bytes) -> bool:
        """Match without backtracking: each piece between `*` at its first occurrence."""
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
    """The rules for one robot on one host; *delay* is its Crawl-delay in seconds."""

    rules: tuple[Rule, ...] = ()
    delay: float | None = None

    def allows(self, url: str) -> bool:
        """Return whether *url* may be fetched."""
        if not self.rules:
            return True
        parts = urlsplit(url)
        target = parts.path or "/"
        if target == "/robots.txt":
            return True
        path = normalize(f"{target}?{parts.query}" if parts.query else target)
        matching = [rule for rule in self.rules if rule.matches(path)]
        if not matching:
            return True
        longest = max(len(rule.pattern) for rule in matching)
        return any(rule.allow for rule in matching if len(rule.pattern) == longest)


ALLOW_ALL = Robots()


def product_token(user_agent: str) -> str:
    """Return our product token for robots.txt: the leading letters, `_` and `-` of the user agent, lowercase."""
    match = _TOKEN.match(user_agent)
    return match[0].lower() if match else "*"


def parse_robots(body: bytes, product: str) -> Robots:
    """Return the rules for *product* in a robots.txt: of its own groups, otherwise of the groups for `*`.

    Crawl-delay is not part of RFC 9309; the longest applies.
    """
    own: list[Rule] = []
    general: list[Rule] = []
    own_delay: float | None = None
    general_delay: float | None = None
    has_group = False
    agents: set[str] = set()
    has_rules = True  # the group has rules; the next user-agent line starts a new group
    for line in body[:MAX_BYTES].decode("utf-8", "replace").removeprefix("\ufeff").splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            if has_rules:
                agents, has_rules = set(), False
            token = _TOKEN.match(value)
            agents.add("*" if value.startswith("*") else token[0].lower() if token else "")
            has_group = has_group or product in agents
        elif name in ("allow", "disallow"):
            has_rules = True
            if not value:
                continue
            rule = Rule(name == "allow", normalize(value))
            if product in agents:
                own.append(rule)
            if "*" in agents:
                general.append(rule)
        elif name == "crawl-delay" and _NUMBER.fullmatch(value):
            if product in agents:
                own_delay = max(own_delay or 0.0, float(value))
            if "*" in agents:
                general_delay = max(general_delay or 0.0, float(value))
    return Robots(tuple(own), own_delay) if has_group else Robots(tuple(general), general_delay)


def normalize(text: str) -> bytes:
    """Percent-encode non-ASCII bytes and decode unreserved characters (RFC 9309, 2.2.2)."""
    raw = text.encode("utf-8", "replace")
    raw = b"".join(bytes([byte]) if 0x20 < byte < 0x7F else b"%%%02X" % byte for byte in raw)

    def replace(match: re.Match[bytes]) -> bytes:
        byte = int(match[1], 16)
        plain = bytes([byte])
        return plain if plain.isalnum() or plain in (b"-", b".", b"_", b"~") else b"%%%02X" % byte

    return _ESCAPED.sub(replace, raw)


@dataclass(frozen=True, slots=True)
class RobotsPolicy:
    """The policy of one host: *robots* rules, paths that *tdm* reserves, or the failure that forbids all URLs."""

    robots: Robots = ALLOW_ALL
    tdm: Robots = ALLOW_ALL
    forbidden: Failure | None = None

    def check(self, url: str) -> None:
        """Raise Failure if *url* may not be fetched: `robots`, `opt_out`, or the reason robots.txt is unreadable."""
        if self.forbidden is not None:
            raise Failure(self.forbidden.reason, self.forbidden.detail)
        if not self.robots.allows(url):
            raise Failure("robots")
        if not self.tdm.allows(url):
            raise Failure("opt_out", "tdmrep.json")


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
        lifetime = _LIFETIME if policy.forbidden is None else _FAILED_LIFETIME
        self._policies[origin] = asyncio.get_running_loop().time() + lifetime, policy
        return policy

    async def _load_policy(self, origin: str) -> RobotsPolicy:
        """Read robots.txt and tdmrep.json. RFC 9309, section 2.3.1, defines the handling of errors."""
        robots = ALLOW_ALL
        if self._config.robots:
            try:
                robots = parse_robots(await self._read(f"{origin}/robots.txt"), self._product)
            except Failure as failure:
                if failure.reason.startswith("http_5"):
                    forbidden = Failure("robots", f"robots.txt answers {failure.reason.removeprefix('http_')}")
                    return RobotsPolicy(forbidden=forbidden)
                if not failure.reason.startswith("http_") and failure.reason != "too_many_redirects":
                    return RobotsPolicy(forbidden=Failure(failure.reason, "robots.txt"))
        tdm = ALLOW_ALL
        if self._config.tdmrep and robots.allows(f"{origin}/.well-known/tdmrep.json"):
            try:
                tdm = parse_tdmrep(await self._read(f"{origin}/.well-known/tdmrep.json"))
            except Failure:
                tdm = ALLOW_ALL  # most hosts have no tdmrep.json
        return RobotsPolicy(robots, tdm)


def parse_tdmrep(body: bytes) -> Robots:
    """Return the paths that a tdmrep.json (TDM Reservation Protocol, W3C community group) reserves, as disallowed.

    It is a list of {location, tdm-reservation, tdm-policy}; a location is a path pattern as in robots.txt, and the
    longest match applies. Invalid entries reserve nothing. Policies (license offers) are ignored.
    """
    try:
        entries = json.loads(body[:MAX_BYTES])
    except (ValueError, RecursionError):
        return ALLOW_ALL
    return Robots(tuple(filter(None, map(_rule, entries if isinstance(entries, list) else [entries]))))


def _rule(entry: Any) -> Rule | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("location"), str):
        return None
    return Rule(str(entry.get("tdm-reservation")).strip() != "1", normalize(entry["location"].strip()))
