"""robots.txt as RFC 9309 says: groups by product token, the longest matching rule wins, `*` and `$` are special."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_BYTES = 500 * 1024  # section 2.5: at least this much is parsed

_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_TOKEN = re.compile(r"[A-Za-z_-]+")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


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
