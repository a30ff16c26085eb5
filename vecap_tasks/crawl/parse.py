"""What a page says of its images, and where it links to. The parser is lexbor, which follows the HTML standard."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from vecap_tasks.crawl.address import absolute
from vecap_tasks.crawl.charset import decode
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.optout import TDM
from vecap_tasks.crawl.page import Page
from vecap_tasks.crawl.srcset import largest, parse_srcset

# Where scripts that load images late keep the real address; `src` is then a placeholder.
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-full-src", "data-url")
_LAZY_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set")


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a page. `alttext` is None where there is no `alt`, and "" where it is empty."""

    url: str
    alttext: str | None
    figcaption: str | None
    language: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What one page holds. `skipped` counts images without an address that can be fetched, by reason."""

    title: str | None
    images: list[Image]
    skipped: Counter[str]
    robots: tuple[str, ...]  # contents of <meta name="robots">, and `tdm-reservation: …` of the <meta> of that name


class Document:
    """A parsed page."""

    def __init__(self, page: Page) -> None:
        # A NUL ends the text for lexbor's C interface; the standard makes it U+FFFD.
        self._tree = LexborHTMLParser(decode(page.body, page.charset).replace("\x00", "\ufffd"))
        self._base = page.url
        base = self._tree.css_first("base[href]")
        if base is not None:
            try:
                self._base = absolute(base.attributes["href"] or "", page.url)
            except Failure:
                self._base = page.url

    def found(self) -> Found:
        """Return all images of the page, in document order."""
        images: list[Image] = []
        skipped: Counter[str] = Counter()
        for node in self._tree.css("img"):
            attributes = node.attributes
            try:
                url = self._address(node, attributes)
            except Failure as failure:
                skipped[failure.reason] += 1
                continue
            alttext = (attributes["alt"] or "") if "alt" in attributes else None
            figcaption, language = _around(node)
            images.append(Image(url, alttext, figcaption, language))
        title = self._tree.css_first("title")
        return Found(_folded(title), images, skipped, self._robots())

    def links(self) -> list[str]:
        """Return the addresses that the page links to, each once, in document order."""
        links: dict[str, None] = {}
        for node in self._tree.css("a[href], area[href]"):
            try:
                links[absolute(node.attributes["href"] or "", self._base)] = None
            except Failure:
                continue
        return list(links)

    def _robots(self) -> tuple[str, ...]:
        metas = (node.attributes for node in self._tree.css("meta[name][content]"))
        named = [((a["name"] or "").strip().lower(), a["content"] or "") for a in metas]
        reserved = (f"{name}: {content}" for name, content in named if name == TDM)
        return (*(content for name, content in named if name == "robots"), *reserved)

    def _address(self, node: LexborNode, attributes: dict[str, str | None]) -> str:
        """Return the first address of the image that is one: late ones, the largest of `srcset`, `src`, <source>."""
        first: Failure | None = None
        for reference in self._references(node, attributes):
            try:
                return absolute(reference, self._base)
            except Failure as failure:
                first = first or failure
        raise first or Failure("no_address")

    def _references(self, node: LexborNode, attributes: dict[str, str | None]) -> list[str]:
        late = [largest(parse_srcset(attributes.get(name) or "")) for name in _LAZY_SETS]
        late += [attributes.get(name) for name in _LAZY]
        plain = [largest(parse_srcset(attributes.get("srcset") or "")), attributes.get("src")]
        sources: list[str | None] = []
        if node.parent is not None and node.parent.tag == "picture":
            for source in node.parent.css("source"):
                written = source.attributes
                for name in ("srcset", *_LAZY_SETS):
                    sources.append(largest(parse_srcset(written.get(name) or "")))
        return [reference for reference in (*late, *plain, *sources) if reference and reference.strip()]


def _around(node: LexborNode) -> tuple[str | None, str | None]:
    """Return the caption of the nearest figure and the nearest language."""
    figcaption: str | None = None
    language: str | None = None
    figure = False
    place: LexborNode | None = node
    while place is not None:
        tag = place.tag
        if tag == "figure" and not figure:
            figure = True
            figcaption = _folded(place.css_first("figcaption"))
        if language is None and tag and tag[0] not in "-#":
            attributes = place.attributes
            language = (attributes.get("lang") or attributes.get("xml:lang") or "").strip() or None
        place = place.parent
    return figcaption, language


def _folded(node: LexborNode | None) -> str | None:
    if node is None:
        return None
    return " ".join(node.text(deep=True).split()) or None
