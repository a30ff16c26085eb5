"""Images, AltText and links of an HTML page. The parser is lexbor, which follows the HTML standard."""

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
# What nearly all candidates of a srcset are: an address and its width. Neither this nor the others go back over what
# they matched (`*+`), so that the time is linear, whatever the text.
_FAST = re.compile(r"[ \t\n\r\f,]*+([^ \t\n\r\f]*[^ \t\n\r\f,])[ \t\n\r\f]++([1-9][0-9]{0,8})w[ \t\n\r\f]*+(?:,|\Z)")
_ADDRESS = re.compile(r"[ \t\n\r\f,]*+([^ \t\n\r\f]++)")
_DESCRIPTORS = re.compile(r"(?:\([^)]*+(?:\)|\Z)|[^,(]++)*+")
# Browsers leave out a candidate whose number is beyond theirs; no image is that wide, or a screen that dense.
_DESCRIPTOR = re.compile(
    r"(?P<whole>0*[1-9][0-9]{0,8})(?P<unit>[wh])"
    r"|(?P<density>-?(?:[0-9]{1,9}|[0-9]{0,9}\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,2})?)x"
)
# Where scripts that load images late keep the real address; `src` is then a placeholder.
_LAZY = ("data-src", "data-original", "data-lazy-src", "data-lazy", "data-original-src", "data-full-src", "data-url")
_LAZY_SETS = ("data-srcset", "data-lazy-srcset", "data-original-set")
_ANY_LAZY = frozenset((*_LAZY, *_LAZY_SETS))
_NOWHERE: tuple[str | None, str | None] = (None, None)
# Everything that is looked at, found in one pass over the page.
_MARKED = "img, meta, base, figure, [lang], [xml\\:lang]"
Attributes = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Page:
    """One HTML page. `url` is where it was found at last, `source` the file or seed that led to it."""

    url: str
    body: bytes
    charset: str | None  # as the HTTP header says
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag
    source: str


class Choice(NamedTuple):  # for speed, as Link
    """One address with its width in pixels (`800w`) or its density (`2x`; 1 where neither is written)."""

    address: str
    width: int | None
    density: float


def parse_srcset(text: str) -> list[Choice]:
    """Return the choices in the order written; those whose descriptors cannot be read are left out."""
    choices: list[Choice] = []
    position = 0
    while True:
        while match := _FAST.match(text, position):
            choices.append(Choice(match[1], int(match[2]), 1.0))
            position = match.end()
        match = _ADDRESS.match(text, position)
        if not match:
            break
        position = match.end()
        address = match[1]
        if address.endswith(","):
            choices.append(Choice(address.rstrip(","), None, 1.0))
            continue
        descriptors = _DESCRIPTORS.match(text, position)
        written = descriptors[0] if descriptors else ""
        position += len(written)
        if choice := _choice(address, written.split()):
            choices.append(choice)
    return choices


def largest(choices: list[Choice]) -> str | None:
    """Return the address of the widest, or where no width is written of the densest; the first of equals."""
    if not choices:
        return None
    best = max(choices, key=lambda choice: (choice.width or 0, choice.density))
    return best.address


def _choice(address: str, descriptors: list[str]) -> Choice | None:
    """Return the choice that the standard makes of it, None for one that it leaves out."""
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
    return Choice(address, width or None, 1.0 if density is None else density)


class Image(NamedTuple):  # for speed, as Link
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
        self._tree = LexborHTMLParser(to_utf8(page.body, page.charset).replace(b"\x00", b"\xef\xbf\xbd"))
        self._base = page.url
        self._images: list[LexborNode] = []
        self._metas: list[Attributes] = []
        self._marks: dict[int, LexborNode] = {}  # figures and what has a language, which tell of the images within
        self._places: dict[int, tuple[str | None, str | None]] = {}
        bases: list[Attributes] = []
        for node in {node.mem_id: node for node in self._tree.css(_MARKED)}.values():
            tag = node.tag
            if tag == "img":
                self._images.append(node)
            elif tag == "meta":
                self._metas.append(node.attributes)
            elif tag == "base":
                bases.append(node.attributes)
            else:
                self._marks[node.mem_id] = node
        for attributes in bases:
            if "href" in attributes:
                with suppress(Failure):
                    self._base = absolute(attributes["href"] or "", page.url)
                break

    def found(self) -> Found:
        """Return all images of the page, in document order."""
        images: list[Image] = []
        skipped: Counter[str] = Counter()
        for node in self._images:
            attributes = node.attributes
            try:
                url = self._address(node, attributes)
            except Exception as error:
                skipped[failure_of(error, self._base).reason] += 1
                continue
            alttext = (attributes["alt"] or "") if "alt" in attributes else None
            figcaption, language = self._around(node.parent)
            images.append(Image(url, alttext, figcaption, _language(attributes) or language))
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
        named = [((a.get("name") or "").strip().lower(), a.get("content") or "") for a in self._metas]
        reserved = (f"{name}: {content}" for name, content in named if name == TDM)
        return (*(content for name, content in named if name == "robots"), *reserved)

    def _address(self, node: LexborNode, attributes: Attributes) -> str:
        """Return the first address of the image that is one: late ones, the largest of `srcset`, `src`, <source>."""
        source = attributes.get("src")
        if source and "srcset" not in attributes and _ANY_LAZY.isdisjoint(attributes):
            plain = fast_path(source, self._base)  # as most are
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

    def _around(self, node: LexborNode | None) -> tuple[str | None, str | None]:
        """Return the caption of the nearest figure from *node* up, and the nearest language.

        Each element is looked at once, whatever the number of images within it.
        """
        fresh: list[tuple[int, LexborNode]] = []
        around = _NOWHERE
        while node is not None:
            key = node.mem_id
            if key in self._places:
                around = self._places[key]
                break
            fresh.append((key, node))
            node = node.parent
        for key, place in reversed(fresh):
            if key in self._marks:
                figcaption = _folded(place.css_first("figcaption")) if place.tag == "figure" else around[0]
                around = (figcaption, _language(place.attributes) or around[1])
            self._places[key] = around
        return around


def _references(node: LexborNode, attributes: Attributes) -> Iterator[str | None]:
    """Give what the image may have as its address, the best first."""
    if not _ANY_LAZY.isdisjoint(attributes):
        yield from _largest(attributes, _LAZY_SETS)
        yield from (attributes[name] for name in _LAZY if name in attributes)
    yield from _largest(attributes, ("srcset",))
    yield attributes.get("src")
    if node.parent is not None and node.parent.tag == "picture":
        for source in node.parent.css("source"):
            yield from _largest(source.attributes, ("srcset", *_LAZY_SETS))


def _largest(attributes: Attributes, names: tuple[str, ...]) -> Iterator[str | None]:
    return (largest(parse_srcset(attributes[name] or "")) for name in names if name in attributes)


def _language(attributes: Attributes) -> str | None:
    if "lang" not in attributes and "xml:lang" not in attributes:
        return None
    return (attributes.get("lang") or attributes.get("xml:lang") or "").strip() or None


def _folded(node: LexborNode | None) -> str | None:
    if node is None:
        return None
    return " ".join(node.text(deep=True).split()) or None
