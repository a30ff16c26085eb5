"""Reads sitemaps (sitemaps.org): XML or text, gzipped or plain, in any encoding, valid or nearly so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from vecap_tasks.crawl.html.charset import to_utf8
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.errors import Failure

PARSE_SITEMAP = "vecap_tasks.crawl.sources.sitemap:parse_sitemap"
MAX_BYTES = 50 << 20  # of an uncompressed sitemap; the limit of the protocol
_MAX_URLS = 500_000  # per sitemap; the protocol allows 50,000
_MAX_DEPTH = 100  # nested elements
_MAX_TOKEN = 1 << 20  # bytes of a tag or a comment
_BLOCK = 1 << 16  # bytes per step of the parser
_GZIP = b"\x1f\x8b"
# Many sitemaps have characters that XML forbids: an `&` that begins no entity, outside CDATA, and control characters.
_FORBIDDEN = re.compile(
    rb"(<!\[CDATA\[.*?(?:\]\]>|\Z))|(&)(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});)"
    rb"|[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]",
    re.DOTALL,
)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MAX_FORBIDDEN = 1_000_000  # more take seconds to replace
_LINE = re.compile(rb"[^\r\n]+")
_URL = re.compile(rb"\s*https?://", re.IGNORECASE)
_ROOTS = frozenset({"urlset", "sitemapindex"})


@dataclass(slots=True)
class Sitemap:
    """The URLs in a sitemap, as written: pages, or sitemaps for an index. *fault* is why some may be missing."""

    pages: list[str] = field(default_factory=list)
    sitemaps: list[str] = field(default_factory=list)
    fault: Failure | None = None
    invalid: bool = False  # the fault is a syntax error


def parse_sitemap(body: bytes) -> Sitemap:
    """Return the content of a sitemap. In invalid XML, the URLs before the first error count.

    Raises Failure: `too_large`, `bad_encoding`, `bad_xml` if no URL comes before, or `not_a_sitemap` for other content.
    """
    if body.startswith(_GZIP):
        body = decode_body(body, "", ("gzip",), MAX_BYTES)
    if len(body) > MAX_BYTES:
        raise Failure("too_large")
    body = to_utf8(body.lstrip(), None).lstrip()
    if not body.startswith(b"<"):
        return _parse_text(body)
    found = _SitemapReader().read(body)
    if found.invalid and b"<!ENTITY" not in body:
        repaired, count = _FORBIDDEN.subn(_replacement, body, _MAX_FORBIDDEN)
        if count < _MAX_FORBIDDEN:
            found = _SitemapReader().read(repaired)
    if found.fault is not None and not found.pages and not found.sitemaps:
        raise found.fault
    return found


def _parse_text(body: bytes) -> Sitemap:
    """Return the URLs of a text with one URL per line."""
    found = Sitemap()
    urls = False
    for line in _LINE.finditer(body):
        if len(found.pages) == _MAX_URLS:
            found.fault = Failure("too_many_urls")
            break
        if text := line[0].strip():
            urls = urls or _URL.match(text) is not None
            found.pages.append(text.decode())
    if found.pages and not urls:
        raise Failure("not_a_sitemap", "no line is a URL")
    return found


def _replacement(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return _CONTROL.sub(b" ", match[1])
    return b"&amp;" if match[2] else b" "


class _Stop(Exception):
    """The reader has enough."""


class _SitemapReader:
    """Streaming reader for UTF-8 XML that keeps only URLs. Expat limits entity expansion.

    Names are compared without prefix: many sitemaps do not declare their prefixes.
    """

    def __init__(self) -> None:
        self._found = Sitemap()
        self._open_elements: list[str] = []  # local names of the open elements
        self._text: list[str] | None = None

    def read(self, body: bytes) -> Sitemap:
        """Return the content of *body*, up to the first error. Raises Failure `not_a_sitemap`."""
        parser = expat.ParserCreate("utf-8")  # overrides the declared encoding
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        try:
            for start in range(0, len(body), _BLOCK):
                parser.Parse(body[start : start + _BLOCK], False)
                if start + _BLOCK - parser.CurrentByteIndex > _MAX_TOKEN + _BLOCK:
                    raise _Stop("bad_xml", f"a tag exceeds {_MAX_TOKEN:,} bytes")
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            self._found.fault, self._found.invalid = Failure("bad_xml", str(error)), True
        except _Stop as stop:
            self._found.fault = Failure(*stop.args)
        return self._found

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        if not self._open_elements and local not in _ROOTS:
            raise Failure("not_a_sitemap", local[:20])
        if len(self._open_elements) == _MAX_DEPTH:
            raise _Stop("bad_xml", f"more than {_MAX_DEPTH} nested elements")
        # The `loc` of an image or a video is inside its own element.
        if local == "loc" and self._open_elements[-1] in ("url", "sitemap"):
            self._text = []
        self._open_elements.append(local)

    def _end(self, name: str) -> None:
        self._open_elements.pop()
        if self._text is None or self._open_elements[-1] not in ("url", "sitemap"):
            return
        url = "".join(self._text).strip()
        self._text = None
        if url:
            found = self._found.pages if self._open_elements[-1] == "url" else self._found.sitemaps
            if len(found) == _MAX_URLS:
                raise _Stop("too_many_urls")
            found.append(url)

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)
