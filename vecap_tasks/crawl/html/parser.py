"""Extracts images, AltText and links from an HTML page with lexbor, a parser that follows the HTML standard."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

from vecap_tasks.crawl.html.charset import decode_page
from vecap_tasks.crawl.html.image_urls import Attributes, ImageUrls
from vecap_tasks.crawl.html.nesting import check
from vecap_tasks.crawl.http.robots import TDM
from vecap_tasks.crawl.http.url import absolute
from vecap_tasks.errors import Failure, failure_of

HTML = ("text/html", "application/xhtml+xml")
# Characters that are kept of a text, plus one to show that there are more.
TITLE_CHARS, FIGCAPTION_CHARS, LANGUAGE_CHARS = 1_000, 10_000, 64
_FIGCAPTIONS_CHARS = 4_000_000  # read per page; nested figcaptions contain each other
_NO_CONTEXT: tuple[str | None, str | None] = (None, None)
# All elements that are used, selected in one pass over the page.
_SELECTOR = "img, meta, base, figure, [lang], [xml\\:lang]"


@dataclass(frozen=True, slots=True)
class Page:
    """One HTML page. `url` is the URL after redirects, `source` the file or seed that led to it."""

    url: str
    body: bytes
    charset: str | None  # from the HTTP header
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag
    source: str


class Image(NamedTuple):  # a tuple for speed, like Link
    """One image of a page. `alttext` is None without an `alt` attribute and "" if it is empty."""

    url: str
    alttext: str | None
    figcaption: str | None
    language: str | None
    alternatives: tuple[str, ...]  # other URLs of the image, the best first


@dataclass(frozen=True, slots=True)
class PageImages:
    """The images of one page. `skipped` counts images without a usable URL, by reason.

    Texts longer than their limit have one character more. `unread_figcaptions` are beyond the limit per page.
    """

    title: str | None
    images: list[Image]
    skipped: Counter[str]
    robots: tuple[str, ...]  # content of <meta name="robots">, and `tdm-reservation: …` of that <meta>
    unread_figcaptions: int


class Document:
    """A parsed page. Raises Failure if it is too complex, as `nesting.check` does."""

    def __init__(self, page: Page) -> None:
        body, self._codec = decode_page(page.body, page.charset)
        # lexbor's C interface stops at a NUL; the standard replaces it with U+FFFD.
        self._tree = LexborHTMLParser(check(body).replace(b"\x00", b"\xef\xbf\xbd"))
        self._base = page.url
        self._images: list[LexborNode] = []
        self._metas: list[Attributes] = []
        self._context_nodes: dict[int, LexborNode] = {}  # figures and elements with a language
        self._contexts: dict[int, tuple[str | None, str | None]] = {}
        self._figcaptions: dict[int, LexborNode] = {}  # by figure
        self._unread_chars = _FIGCAPTIONS_CHARS
        self._unread_figcaptions = 0
        bases: list[Attributes] = []
        figures = False
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
                figures = figures or tag == "figure"
        if figures:
            self._assign(self._tree.css("figcaption"))
        for attributes in bases:
            if "href" in attributes:
                with suppress(Failure):
                    self._base = absolute(attributes["href"] or "", page.url, self._codec)
                break

    def found(self) -> PageImages:
        """Return all images of the page, in document order."""
        images: list[Image] = []
        skipped: Counter[str] = Counter()
        image_urls = ImageUrls(self._base, self._codec)
        for node in self._images:
            attributes, parent = node.attributes, node.parent
            try:
                url, *alternatives = image_urls.find(parent, attributes)
            except Exception as error:
                skipped[failure_of(error, self._base).reason] += 1
                continue
            alttext = (attributes["alt"] or "") if "alt" in attributes else None
            figcaption, language = self._context(parent)
            images.append(Image(url, alttext, figcaption, _language(attributes) or language, tuple(alternatives)))
        title = self._tree.css_first("title")
        text = None if title is None else _normalize(title.text(deep=True), TITLE_CHARS)
        return PageImages(text, images, skipped, self._robots(), self._unread_figcaptions)

    def links(self) -> list[str]:
        """Return the distinct URLs that the page links to, in document order."""
        links: dict[str, None] = {}
        for node in self._tree.css("a[href], area[href]"):
            try:
                links[absolute(node.attributes["href"] or "", self._base, self._codec)] = None
            except Failure:
                continue
        return list(links)

    def _robots(self) -> tuple[str, ...]:
        named = [((a.get("name") or "").strip().lower(), a.get("content") or "") for a in self._metas]
        reserved = (f"{name}: {content}" for name, content in named if name == TDM)
        return (*(content for name, content in named if name == "robots"), *reserved)

    def _assign(self, figcaptions: list[LexborNode]) -> None:
        """Assign to each figure its first figcaption, in linear time."""
        visited: set[int] = set()
        for figcaption in figcaptions:
            node = figcaption.parent
            while node is not None and node.mem_id not in visited:
                visited.add(node.mem_id)
                if node.tag == "figure":
                    self._figcaptions[node.mem_id] = figcaption
                node = node.parent

    def _figcaption(self, figure: int) -> str | None:
        """Return the text of the caption of a figure, None without one or if the page's captions are too long."""
        node = self._figcaptions.get(figure)
        if node is None:
            return None
        if self._unread_chars <= 0:
            self._unread_figcaptions += 1
            return None
        text = node.text(deep=True)
        self._unread_chars -= len(text)
        return _normalize(text, FIGCAPTION_CHARS)

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
                figcaption = self._figcaption(key) if element.tag == "figure" else context[0]
                context = (figcaption, _language(element.attributes) or context[1])
            self._contexts[key] = context
        return context


def _language(attributes: Attributes) -> str | None:
    if "lang" not in attributes and "xml:lang" not in attributes:
        return None
    language = (attributes.get("lang") or attributes.get("xml:lang") or "").strip()
    return language[: LANGUAGE_CHARS + 1] or None


def _normalize(text: str, limit: int) -> str | None:
    """Return *text* with single spaces, None if it is empty, and cut after *limit* characters and one."""
    return " ".join(text.split())[: limit + 1] or None
