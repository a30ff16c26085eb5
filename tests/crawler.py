"""Follow every link of every page, as a person may."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import unescape
from urllib.parse import urldefrag, urljoin

_LINK = re.compile(rb"""\b(?:href|src|action)\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What a GET came to, redirects inside the site followed. `links` are as written."""

    status: int
    body: bytes

    @property
    def links(self) -> list[str]:
        return [unescape((one or other).decode()) for one, other in _LINK.findall(self.body)]


def crawl(get: Callable[[str], Answer], *starts: str) -> dict[str, Answer]:
    """Get *starts* and every URL below their folders that a page links to, each once. Return the answers by URL."""
    below = tuple(urljoin(start, ".") for start in starts)
    found: dict[str, Answer] = {}
    waiting = list(starts)
    while waiting:
        url = waiting.pop()
        if url not in found:
            found[url] = get(url)
            links = (urldefrag(urljoin(url, link)).url for link in found[url].links)
            waiting += [link for link in links if link.startswith(below)]
    return found
