"""Finds the URLs of an image in the attributes of `<img>` and in the `<source>` elements of its `<picture>`.

Browsers use `src` and `srcset`. Pages that load images late keep the URL in other attributes, whose names differ by
script, and `src` is then a placeholder. The groups, of which the first with a usable URL applies:

1. lazy: attributes named like `data-src` or `data-srcset`.
2. standard: `<source>`, `srcset` and `src`. If they hold only a placeholder, group 3 is first.
3. other: any other attribute that holds the URL of an image file, such as `data-large-file`.

Within a group the largest image is first, as far as `srcset` describes sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from selectolax.lexbor import LexborNode

from vecap_tasks.crawl.http.url import absolute, fast_path
from vecap_tasks.errors import Failure

Attributes = dict[str, str | None]
MAX_URLS = 8  # of one image
# Attributes of images that never hold a URL of the image, apart from `src` and `srcset`.
_WITHOUT_URL = frozenset(
    [
        "alt",
        "align",
        "border",
        "class",
        "crossorigin",
        "decoding",
        "dir",
        "fetchpriority",
        "height",
        "hidden",
        "hspace",
        "id",
        "ismap",
        "itemprop",
        "lang",
        "loading",
        "longdesc",
        "name",
        "referrerpolicy",
        "role",
        "sizes",
        "style",
        "tabindex",
        "title",
        "usemap",
        "vspace",
        "width",
        "xml:lang",
        "aria-hidden",
        "aria-label",
        "data-alt",
        "data-title",
        "data-caption",
        "data-sizes",
        "data-id",
        "data-width",
        "data-height",
        "about",
        "resource",
        "typeof",
        "property",
    ]
)
_PLAIN = _WITHOUT_URL | {"src"}
# Names whose values are URLs, whatever they look like.
_LAZY = frozenset(
    [
        "data-src",
        "data-original",
        "data-lazy-src",
        "data-lazy",
        "data-original-src",
        "data-full-src",
        "data-url",
        "data-cfsrc",
        "data-lsrc",
    ]
)
_LAZY_NAME = re.compile(r"src(?:\Z|-)|srcset|original|lazy|(?:image|img)-?url|echo\Z|defer|delayed")
_WORDS = re.compile(r"[a-z0-9]+")
# Words in the names of attributes for other images, or for smaller copies.
_SECONDARY = frozenset(
    [
        "after",
        "alt",
        "avatar",
        "background",
        "before",
        "bg",
        "blank",
        "caption",
        "default",
        "desc",
        "description",
        "error",
        "fallback",
        "filename",
        "hover",
        "href",
        "icon",
        "link",
        "loading",
        "logo",
        "low",
        "lowres",
        "lowsrc",
        "lqip",
        "meta",
        "mobile",
        "name",
        "overlay",
        "page",
        "permalink",
        "placeholder",
        "poster",
        "preview",
        "rollover",
        "share",
        "small",
        "spinner",
        "swap",
        "thumb",
        "thumbnail",
        "tiny",
        "title",
        "type",
    ]
)
_IMAGE_URL = re.compile(
    r"[^\s\"'<>{}|^`]*\.(?:jpe?g|jfif|png|gif|webp|avif|bmp|tiff?|svg)(?![a-z0-9])[^\s\"'<>{}|^`]*", re.I
)
_URL_START = re.compile(r"(?:https?:/)?/[^\s\"'<>{}|^`]*", re.IGNORECASE)
_SRCSET = re.compile(r"\s[0-9.]{1,9}[wx]\s*(?:,|\Z)")
_PLACEHOLDER = re.compile(
    r"(?:blank|pixel|placeholder|spacer|load(?:ing|er)|transparent|dummy|empty|trans|1x1|lazy|gr[ae]y)[^/]*\Z|\.(?:gif|svg)\Z",
    re.IGNORECASE,
)
_NARROW = re.compile(r"max-(?:device-)?width|portrait|print", re.IGNORECASE)  # not for large screens
_DECODED = re.compile(r"\s*(?:\Z|image/(?:jpe?g|pjpeg|a?png|gif|webp|avif|bmp|tiff?))", re.IGNORECASE)


class Candidate(NamedTuple):
    """A reference to an image; the largest `size`, the width in pixels and the density, is best."""

    reference: str
    size: tuple[int, float] = (0, 1.0)


class ImageUrls:
    """Resolves the images of a page."""

    def __init__(self, base: str, codec: str | None) -> None:
        self._base = base
        self._codec = codec
        self._sources: dict[int, list[Candidate]] = {}  # the best <source> candidates, by picture

    def find(self, parent: LexborNode | None, attributes: Attributes) -> tuple[str, ...]:
        """Return the distinct URLs of an <img>, the best first, at most MAX_URLS. Raises Failure if it has none."""
        source = attributes.get("src")
        picture = parent if parent is not None and parent.tag == "picture" else None
        if source and picture is None and attributes.keys() <= _PLAIN:
            plain = fast_path(source, self._base)  # the common case
            if plain:
                return (plain,)
        first: Failure | None = None
        for group in self._groups(picture, attributes):
            found, failure = self._resolve(group)
            if found:
                return tuple(candidate.reference for candidate in found)
            first = first or failure
        raise first or Failure("no_address")

    def _groups(self, picture: LexborNode | None, attributes: Attributes) -> Iterator[list[Candidate]]:
        lazy: list[Candidate] = []
        other: list[Candidate] = []
        secondary: list[Candidate] = []
        for name in attributes:
            if name in _PLAIN or name == "srcset":
                continue
            value = attributes[name]
            if value and not value.isspace() and not name.startswith(("on", "aria-")):
                is_lazy, is_secondary = _kind(name)
                group = secondary if is_secondary else lazy if is_lazy else other
                group.extend(_candidates(name, value, is_lazy))
        yield lazy
        standard = self._picture(picture) if picture is not None else []
        standard += map(_sized, parse_srcset(attributes.get("srcset") or ""))
        source = (attributes.get("src") or "").strip()
        replaced = other and not standard and (not source or _is_placeholder(source, attributes))
        if source:
            standard.append(Candidate(source))
        yield from (other, standard) if replaced else (standard, other)
        yield secondary

    def _picture(self, picture: LexborNode) -> list[Candidate]:
        """Return the best candidates of the <source> elements of a <picture>."""
        key = picture.mem_id
        if key not in self._sources:
            nodes = (node for node in picture.css("source") if node.parent is not None and node.parent.mem_id == key)
            self._sources[key] = self._resolve([found for node in nodes for found in _source(node.attributes)])[0]
        return list(self._sources[key])

    def _resolve(self, candidates: list[Candidate]) -> tuple[list[Candidate], Failure | None]:
        """Return the best candidates with distinct canonical URLs, and why the first of the others has none."""
        if len(candidates) > 1:
            candidates = sorted(candidates, key=lambda candidate: candidate.size, reverse=True)
        found: dict[str, Candidate] = {}
        first: Failure | None = None
        for candidate in candidates:
            try:
                url = absolute(candidate.reference, self._base, self._codec)
            except Failure as failure:
                first = first or failure
                continue
            found.setdefault(url, Candidate(url, candidate.size))
            if len(found) == MAX_URLS:
                break
        return list(found.values()), first


def _kind(name: str) -> tuple[bool, bool]:
    """Return whether the attribute *name* is for lazy loading, and whether it is for another image."""
    if name in _LAZY:
        return True, False
    return _LAZY_NAME.search(name) is not None, not _SECONDARY.isdisjoint(_WORDS.findall(name))


def _candidates(name: str, value: str, is_lazy: bool) -> list[Candidate]:
    """Return the candidates in *value*, none if it is not a URL of an image or a srcset."""
    if name.endswith("srcset") or name == "data-original-set" or _SRCSET.search(value):
        found = parse_srcset(value)
        if "set" in name or (found and _IMAGE_URL.fullmatch(found[0].url)):
            return list(map(_sized, found))
    text = value.strip()
    if name in _LAZY or _IMAGE_URL.fullmatch(text) or (is_lazy and _URL_START.fullmatch(text)):
        return [Candidate(text)]
    return []


def _source(attributes: Attributes) -> list[Candidate]:
    """Return the candidates of a <source>; those for small screens and unknown formats are last or left out."""
    if not _DECODED.match(attributes.get("type") or ""):
        return []
    found: list[Candidate] = []
    for name, value in attributes.items():
        if value and name.endswith("srcset"):
            found += map(_sized, parse_srcset(value))
    if _NARROW.search(attributes.get("media") or ""):
        return [Candidate(candidate.reference, (0, 0.0)) for candidate in found]
    return found


def _sized(candidate: SrcsetCandidate) -> Candidate:
    return Candidate(candidate.url, (candidate.width or 0, candidate.density))


def _is_placeholder(source: str, attributes: Attributes) -> bool:
    path = source[:1000].partition("?")[0]
    return (
        path[:5].lower() == "data:"
        or _PLACEHOLDER.search(path) is not None
        or "lazy" in (attributes.get("class") or "").lower()
    )


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
