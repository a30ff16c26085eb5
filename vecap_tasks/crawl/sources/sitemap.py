"""Sitemaps: lists of a site's pages, as XML or plain text, and indexes of such lists (sitemaps.org, version 0.9)."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from xml.parsers import expat

from vecap_tasks.crawl.charset import to_utf8
from vecap_tasks.crawl.failure import Failure
from vecap_tasks.crawl.sources.coding import undo

MAX_BYTES = 50 << 20  # of a sitemap, unpacked; the protocol's own bound
_GZIP = b"\x1f\x8b"
# Many lists have addresses with a plain `&`. It is text within CDATA, and else where no entity follows.
_AMPERSAND = re.compile(rb"(<!\[CDATA\[.*?(?:\]\]>|\Z))|&(?!#?[A-Za-z0-9_.:-]{1,100};)", re.DOTALL)
_ROOTS = frozenset({"urlset", "sitemapindex"})


@dataclass(frozen=True, slots=True)
class Sitemap:
    """What a sitemap lists, as written: pages, or, for an index, other sitemaps."""

    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)


def parse_sitemap(body: bytes) -> Sitemap:
    """Read a sitemap, gzipped or not.

    Raises Failure: `too_large`, `bad_encoding`, `bad_xml`, or `not_a_sitemap` for XML of another kind.
    """
    if body.startswith(_GZIP):
        body = undo(body, "", ("gzip",), MAX_BYTES)
    if len(body) > MAX_BYTES:
        raise Failure("too_large")
    body = to_utf8(body.lstrip(), None).lstrip()
    if not body.startswith(b"<"):
        return Sitemap([line.strip() for line in body.decode().splitlines() if line.strip()])
    try:
        return _Reader().read(body)
    except expat.ExpatError as error:
        with suppress(expat.ExpatError):
            return _Reader().read(_AMPERSAND.sub(lambda match: match[1] or b"&amp;", body))
        raise Failure("bad_xml", str(error)) from error


class _Reader:
    """Reads XML in UTF-8 as a stream, so that only addresses are kept. Expat bounds what entities may grow to."""

    def __init__(self) -> None:
        self._found = Sitemap()
        self._open: list[str] = []  # local names of the elements around the place
        self._text: list[str] | None = None

    def read(self, body: bytes) -> Sitemap:
        """Return what *body* lists. Raises ExpatError."""
        parser = expat.ParserCreate("utf-8", " ")  # whatever the document declares, which expat may not know
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.Parse(body, True)
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if not self._open and local not in _ROOTS:
            raise Failure("not_a_sitemap", local[:20])
        # An image's or a video's `loc` stands within an element of its own.
        if local == "loc" and self._open[-1] in ("url", "sitemap"):
            self._text = []
        self._open.append(local)

    def _end(self, name: str) -> None:
        self._open.pop()
        if self._text is not None:
            address = "".join(self._text).strip()
            self._text = None
            if address:
                (self._found.pages if self._open[-1] == "url" else self._found.sitemaps).append(address)

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
