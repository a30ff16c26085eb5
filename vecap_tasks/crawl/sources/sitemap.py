"""Parses a sitemap, in a child process. Imports little."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from xml.parsers import expat

from vecap_tasks.crawl.html.charset import to_utf8
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.errors import Failure

PARSE_SITEMAP = "vecap_tasks.crawl.sources.sitemap:parse_sitemap"
MAX_BYTES = 50 << 20  # of an uncompressed sitemap; the limit of the protocol
_GZIP = b"\x1f\x8b"
# Many sitemaps contain URLs with an unescaped `&`, which is text in CDATA and wherever no entity follows.
_AMPERSAND = re.compile(rb"(<!\[CDATA\[.*?(?:\]\]>|\Z))|&(?!#?[A-Za-z0-9_.:-]{1,100};)", re.DOTALL)
_ROOTS = frozenset({"urlset", "sitemapindex"})


@dataclass(frozen=True, slots=True)
class Sitemap:
    """The URLs in a sitemap, as written: pages, or sitemaps for an index."""

    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)


def parse_sitemap(body: bytes) -> Sitemap:
    """Return the content of a sitemap, gzipped or plain.

    Raises Failure: `too_large`, `bad_encoding`, `bad_xml`, or `not_a_sitemap` for other XML.
    """
    if body.startswith(_GZIP):
        body = decode_body(body, "", ("gzip",), MAX_BYTES)
    if len(body) > MAX_BYTES:
        raise Failure("too_large")
    body = to_utf8(body.lstrip(), None).lstrip()
    if not body.startswith(b"<"):
        return Sitemap([line.strip() for line in body.decode().splitlines() if line.strip()])
    try:
        return _SitemapReader().read(body)
    except expat.ExpatError as error:
        with suppress(expat.ExpatError):
            return _SitemapReader().read(_AMPERSAND.sub(lambda match: match[1] or b"&amp;", body))
        raise Failure("bad_xml", str(error)) from error


class _SitemapReader:
    """Streaming reader for UTF-8 XML that keeps only URLs. Expat limits entity expansion."""

    def __init__(self) -> None:
        self._found = Sitemap()
        self._open_elements: list[str] = []  # local names of the open elements
        self._text: list[str] | None = None

    def read(self, body: bytes) -> Sitemap:
        """Return the content of *body*. Raises ExpatError."""
        parser = expat.ParserCreate("utf-8", " ")  # overrides the declared encoding
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.Parse(body, True)
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(" ")[2]
        if not self._open_elements and local not in _ROOTS:
            raise Failure("not_a_sitemap", local[:20])
        # The `loc` of an image or a video is inside its own element.
        if local == "loc" and self._open_elements[-1] in ("url", "sitemap"):
            self._text = []
        self._open_elements.append(local)

    def _end(self, name: str) -> None:
        self._open_elements.pop()
        if self._text is not None:
            url = "".join(self._text).strip()
            self._text = None
            if url:
                (self._found.pages if self._open_elements[-1] == "url" else self._found.sitemaps).append(url)

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
