"""Parses `srcset` attributes as the HTML standard does, in linear time for any text."""

from __future__ import annotations

import re
from typing import NamedTuple

# Nearly all srcset candidates: a URL and its width. The patterns use possessive quantifiers (`*+`), so that matching
# takes linear time for any text.
_WIDTH_CANDIDATE = re.compile(
    r"[ \t\n\r\f,]*+([^ \t\n\r\f]*[^ \t\n\r\f,])[ \t\n\r\f]++([1-9][0-9]{0,8})w[ \t\n\r\f]*+(?:,|\Z)"
)
_URL = re.compile(r"[ \t\n\r\f,]*+([^ \t\n\r\f]++)")
_DESCRIPTORS = re.compile(r"(?:\([^)]*+(?:\)|\Z)|[^,(]++)*+")
# Browsers ignore candidates whose numbers overflow; no image or screen reaches these limits.
_DESCRIPTOR = re.compile(
    r"(?P<whole>0*[1-9][0-9]{0,8})(?P<unit>[wh])"
    r"|(?P<density>-?(?:[0-9]{1,9}|[0-9]{0,9}\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?)x"
)


class SrcsetCandidate(NamedTuple):  # a tuple for speed, like Link
    """One URL of a srcset with its width in pixels (`800w`) or its density (`2x`; default 1)."""

    url: str
    width: int | None
    density: float


def parse_srcset(text: str) -> list[SrcsetCandidate]:
    """Return the candidates in document order, without those with invalid descriptors."""
    candidates: list[SrcsetCandidate] = []
    position = 0
    while True:
        while match := _WIDTH_CANDIDATE.match(text, position):
            candidates.append(SrcsetCandidate(match[1], int(match[2]), 1.0))
            position = match.end()
        match = _URL.match(text, position)
        if not match:
            break
        position = match.end()
        url = match[1]
        if url.endswith(","):
            candidates.append(SrcsetCandidate(url.rstrip(","), None, 1.0))
            continue
        descriptors = _DESCRIPTORS.match(text, position)
        written = descriptors[0] if descriptors else ""
        position += len(written)
        if candidate := _parse_candidate(url, written.split()):
            candidates.append(candidate)
    return candidates


def _parse_candidate(url: str, descriptors: list[str]) -> SrcsetCandidate | None:
    """Return the candidate as the HTML standard parses it, None if it is invalid."""
    width = height = 0
    density: float | None = None
    for word in descriptors:
        number = _DESCRIPTOR.fullmatch(word)
        if number is None or density is not None:
            return None
        if number["unit"] == "w" and not width:
            width = int(number["whole"])
        elif number["unit"] == "h" and not height:
            height = int(number["whole"])
        elif number["density"] and not width and not height:
            density = float(number["density"])
        else:
            return None
    if (height and not width) or (density or 0) < 0:
        return None
    return SrcsetCandidate(url, width or None, 1.0 if density is None else density)
