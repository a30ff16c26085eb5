"""Path patterns of robots.txt (RFC 9309, section 2.2), indexed so that a check takes at most a few milliseconds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple
from urllib.parse import urlsplit

from vecap_tasks.errors import Failure

_ENCODED = re.compile(rb"%[0-9A-Fa-f]{2}|[^\x21-\x7e]")
_SPECIAL = re.compile(rb"[*$]")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_GRAM = 3  # bytes of the fragments by which patterns with `*` are found
# Cost of the patterns with `*` that one check compares: pieces between `*`, and 64-byte blocks of the path. No observed
# robots.txt comes near it; above it the URL is not fetched.
_MAX_COST = 10_000


class _Wildcard(NamedTuple):
    """A pattern with `*`: its length, its flag, and the pieces between `*`."""

    length: int
    flag: bool
    pieces: tuple[bytes, ...]
    anchored: bool

    def matches(self, path: bytes) -> bool:
        """Match without backtracking: each piece at its first occurrence."""
        if not path.startswith(self.pieces[0]):
            return False
        position = len(self.pieces[0])
        for piece in self.pieces[1:-1]:
            found = path.find(piece, position)
            if found < 0:
                return False
            position = found + len(piece)
        last = self.pieces[-1]
        if self.anchored:
            return len(path) - len(last) >= position and path.endswith(last)
        return path.find(last, position) >= 0


class PathRules:
    """Flags by path pattern. The longest pattern that matches decides; on a tie, True.

    *rules* are pairs of a flag and a pattern as written. Patterns without `*` are looked up by length; the others by
    their rarest fragment.
    """

    __slots__ = ("_exact", "_lengths", "_prefixes", "_wildcards")

    def __init__(self, rules: Iterable[tuple[bool, bytes]] = ()) -> None:
        self._prefixes: dict[bytes, bool] = {}
        self._exact: dict[bytes, bool] = {}
        wildcards: dict[bytes, bool] = {}
        for flag, written in rules:
            pattern = normalize_pattern(written)
            table = self._prefixes
            if b"*" in pattern:
                table = wildcards
            elif pattern.endswith(b"$"):
                table, pattern = self._exact, pattern[:-1]
            table[pattern] = table.get(pattern, False) or flag
        self._lengths = sorted({len(pattern) for pattern in self._prefixes}, reverse=True)
        self._wildcards = _by_fragment(wildcards)

    def __bool__(self) -> bool:
        return bool(self._prefixes or self._exact or self._wildcards)

    def decide(self, path: bytes) -> bool | None:
        """Return the flag for the normalized *path*, None if no pattern matches.

        Raises Failure `robots` if the comparison costs too much.
        """
        length, flag = -1, None
        if path in self._exact:
            length, flag = len(path) + 1, self._exact[path]  # with its `$`
        for size in self._lengths:
            if size < length:
                break
            found = self._prefixes.get(path[:size]) if size <= len(path) else None
            if found is not None:
                flag = found or (size == length and flag is True)
                length = size
                break
        return self._decide_wildcards(path, length, flag) if self._wildcards else flag

    def _decide_wildcards(self, path: bytes, length: int, flag: bool | None) -> bool | None:
        cost, blocks = 0, 1 + (len(path) >> 6)
        for fragment in self._fragments(path):
            for rule in self._wildcards.get(fragment, ()):
                if rule.length < length or (rule.length == length and flag):
                    break  # the rules of a fragment are in decreasing order
                cost += len(rule.pieces) + blocks
                if cost > _MAX_COST:
                    raise Failure("robots", "robots.txt has too many patterns for this URL")
                if rule.matches(path):
                    length, flag = rule.length, rule.flag
                    break
        return flag

    def _fragments(self, path: bytes) -> Iterable[bytes]:
        """Return the fragments of patterns that *path* contains."""
        if len(self._wildcards) <= _GRAM * len(path):
            return [fragment for fragment in self._wildcards if fragment in path]
        return {path[at : at + size] for size in range(_GRAM + 1) for at in range(len(path) - size + 1)}


def _by_fragment(patterns: dict[bytes, bool]) -> dict[bytes, list[_Wildcard]]:
    """Return the *patterns* by their rarest fragment, the longest first; on a tie, those with True first."""
    fragments = [list(_fragments_of(pattern)) for pattern in patterns]
    counts = Counter(chain.from_iterable(fragments))
    found: dict[bytes, list[_Wildcard]] = {}
    for (pattern, flag), candidates in zip(patterns.items(), fragments, strict=True):
        anchored = pattern.endswith(b"$")
        pieces = tuple((pattern[:-1] if anchored else pattern).split(b"*"))
        rarest = min(candidates, key=counts.__getitem__, default=b"")
        found.setdefault(rarest, []).append(_Wildcard(len(pattern), flag, pieces, anchored))
    for rules in found.values():
        rules.sort(key=lambda rule: (rule.length, rule.flag), reverse=True)
    return found


def _fragments_of(pattern: bytes) -> Iterator[bytes]:
    """Yield the fragments that every path that matches *pattern* contains."""
    for piece in pattern.removesuffix(b"$").split(b"*"):
        if 0 < len(piece) <= _GRAM:
            yield piece
        for at in range(len(piece) - _GRAM):
            yield piece[at : at + _GRAM]
        if len(piece) > _GRAM:
            yield piece[-_GRAM:]


def path_of(url: str) -> bytes:
    """Return the normalized path and query of a canonical *url*. `*` and `$` are percent-encoded."""
    parts = urlsplit(url)
    path = parts.path or "/"
    raw = (f"{path}?{parts.query}" if parts.query else path).encode("utf-8", "replace")
    return _SPECIAL.sub(_encode, _normalize(raw))


def normalize_pattern(written: bytes) -> bytes:
    """Return the normalized form of a pattern. `*`, and `$` at its end, are special; `%2A` and `%24` are literal."""
    pattern = _normalize(written)
    return pattern[:-1].replace(b"$", b"%24") + pattern[-1:]


def _normalize(raw: bytes) -> bytes:
    """Percent-encode bytes outside ASCII, and decode unreserved characters (RFC 9309, section 2.2.2)."""
    return _ENCODED.sub(_encode, raw)


def _encode(match: re.Match[bytes]) -> bytes:
    text = match[0]
    byte = int(text[1:], 16) if len(text) > 1 else text[0]
    return bytes((byte,)) if len(text) > 1 and byte in _UNRESERVED else b"%%%02X" % byte
