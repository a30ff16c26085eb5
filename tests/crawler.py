"""Crawler for UI tests: follows every link of every page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from urllib.parse import urldefrag, urljoin

_LINK = re.compile(rb"""\b(?:href|src|action)\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """The response to a GET after redirects. `links` are unresolved."""

    status: int
    body: bytes

    @property
    def links(self) -> list[str]:
        return [unescape((double or single).decode()) for double, single in _LINK.findall(self.body)]


def crawl(get: Callable[[str], Response], *starts: str) -> dict[str, Response]:
    """Return the responses by URL of *starts* and all linked URLs below their folders, each requested once."""
    below = tuple(urljoin(start, ".") for start in starts)
    found: dict[str, Response] = {}
    queue = list(starts)
    while queue:
        url = queue.pop()
        if url not in found:
            found[url] = get(url)
            links = (urldefrag(urljoin(url, link)).url for link in found[url].links)
            queue += [link for link in links if link.startswith(below)]
    return found
