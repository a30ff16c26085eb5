"""Extracts images, AltText and links from an HTML page with lexbor, a parser that follows the HTML standard."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from vecap_tasks.crawl.html.charset import to_utf8
from vecap_tasks.crawl.http.robots import TDM
from vecap_tasks.crawl.http.url import absolute, fast_path
from vecap_tasks.errors import Failure, failure_of

HTML = ("text/html", "application/xhtml+xml")
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
# Attributes in which lazy-loading scripts keep the real URL; `src` is then a placeholder.
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-full-src", "data-url")
_LAZY_SRCSETS = ("data-srcset", "data-lazy-srcset", "data-original-set")
_ANY_LAZY = frozenset((*_LAZY, *_LAZY_SRCSETS))
_NO_CONTEXT: tuple[str | None, str | None] = (None, None)
# All elements that are used, selected in one pass over the page.
_SELECTOR = "img, meta, base, figure, [lang], [xml\\:lang]"
Attributes = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Page:
    """One HTML page. `url` is the URL after redirects, `source` the file or seed that led to it."""

    url: str
    body: bytes
    charset: str | None  # from the HTTP header
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag
    source: str


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


def largest(candidates: list[SrcsetCandidate]) -> str | None:
    """Return the URL of the widest candidate, or of the densest if no width is given; the first of equals."""
    if not candidates:
        return None
    best = max(candidates, key=lambda candidate: (candidate.width or 0, candidate.density))
    return best.url


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


class Image(NamedTuple):  # a tuple for speed, like Link
    """One image of a page. `alttext` is None without an `alt` attribute and "" if it is empty."""

    url: str
    alttext: str | None
    figcaption: str | None
    language: str | None


@dataclass(frozen=True, slots=True)
class PageImages:
    """The images of one page. `skipped` counts images without a usable URL, by reason."""

    title: str | None
    images: list[Image]
    skipped: Counter[str]
    robots: tuple[str, ...]  # content of <meta name="robots">, and `tdm-reservation: …` of that <meta>


class Document:
    """A parsed page."""

    def __init__(self, page: Page) -> None:
        # lexbor's C interface stops at a NUL; the standard replaces it with U+FFFD.
        self._tree = LexborHTMLParser(to_utf8(page.body, page.charset).replace(b"\x00", b"\xef\xbf\xbd"))
        self._base = page.url
        self._images: list[LexborNode] = []
        self._metas: list[Attributes] = []
        self._context_nodes: dict[int, LexborNode] = {}  # figures and elements with a language
        self._contexts: dict[int, tuple[str | None, str | None]] = {}
        bases: list[Attributes] = []
        for node in {node.mem_id: node for node in self._tree.css(_SELECTOR)}.values():
            tag = node.tag
            if tag == "img":
                self._images.append(node)
            elif tag == "meta":
                self._metas.append(node.attributes)
            elif tag == "base":
                bases.append(node.attributes)
            else:
                self._context_nodes[node.mem_id] = node
        for attributes in bases:
            if "href" in attributes:
                with suppress(Failure):
                    self._base = absolute(attributes["href"] or "", page.url)
                break

    def found(self) -> PageImages:
        """Return all images of the page, in document order."""
        images: list[Image] = []
        skipped: Counter[str] = Counter()
        for node in self._images:
            attributes = node.attributes
            try:
                url = self._image_url(node, attributes)
            except Exception as error:
                skipped[failure_of(error, self._base).reason] += 1
                continue
            alttext = (attributes["alt"] or "") if "alt" in attributes else None
            figcaption, language = self._context(node.parent)
            images.append(Image(url, alttext, figcaption, _language(attributes) or language))
        title = self._tree.css_first("title")
        return PageImages(_text_of(title), images, skipped, self._robots())

    def links(self) -> list[str]:
        """Return the distinct URLs that the page links to, in document order."""
        links: dict[str, None] = {}
        for node in self._tree.css("a[href], area[href]"):
            try:
                links[absolute(node.attributes["href"] or "", self._base)] = None
            except Failure:
                continue
        return list(links)

    def _robots(self) -> tuple[str, ...]:
        named = [((a.get("name") or "").strip().lower(), a.get("content") or "") for a in self._metas]
        reserved = (f"{name}: {content}" for name, content in named if name == TDM)
        return (*(content for name, content in named if name == "robots"), *reserved)

    def _image_url(self, node: LexborNode, attributes: Attributes) -> str:
        """Return the first valid URL of the image: lazy-loading attributes, largest of `srcset`, `src`, <source>."""
        source = attributes.get("src")
        if source and "srcset" not in attributes and _ANY_LAZY.isdisjoint(attributes):
            plain = fast_path(source, self._base)  # the common case
            if plain:
                return plain
        first: Failure | None = None
        for reference in _references(node, attributes):
            if reference and not reference.isspace():
                try:
                    return absolute(reference, self._base)
                except Failure as failure:
                    first = first or failure
        raise first or Failure("no_address")

    def _context(self, node: LexborNode | None) -> tuple[str | None, str | None]:
        """Return the caption of the closest figure around *node* and the closest language, cached per element."""
        unvisited: list[tuple[int, LexborNode]] = []
        context = _NO_CONTEXT
        while node is not None:
            key = node.mem_id
            if key in self._contexts:
                context = self._contexts[key]
                break
            unvisited.append((key, node))
            node = node.parent
        for key, element in reversed(unvisited):
            if key in self._context_nodes:
                figcaption = _text_of(element.css_first("figcaption")) if element.tag == "figure" else context[0]
                context = (figcaption, _language(element.attributes) or context[1])
            self._contexts[key] = context
        return context


def _references(node: LexborNode, attributes: Attributes) -> Iterator[str | None]:
    """Yield the possible references to the image, the best first."""
    if not _ANY_LAZY.isdisjoint(attributes):
        yield from _largest(attributes, _LAZY_SRCSETS)
        yield from (attributes[name] for name in _LAZY if name in attributes)
    yield from _largest(attributes, ("srcset",))
    yield attributes.get("src")
    if node.parent is not None and node.parent.tag == "picture":
        for source in node.parent.css("source"):
            yield from _largest(source.attributes, ("srcset", *_LAZY_SRCSETS))


def _largest(attributes: Attributes, names: tuple[str, ...]) -> Iterator[str | None]:
    return (largest(parse_srcset(attributes[name] or "")) for name in names if name in attributes)


def _language(attributes: Attributes) -> str | None:
    if "lang" not in attributes and "xml:lang" not in attributes:
        return None
    return (attributes.get("lang") or attributes.get("xml:lang") or "").strip() or None


def _text_of(node: LexborNode | None) -> str | None:
    if node is None:
        return None
    return " ".join(node.text(deep=True).split()) or None
