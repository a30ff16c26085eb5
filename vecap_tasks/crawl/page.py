"""A page as a source gives it."""

from __future__ import annotations

from dataclasses import dataclass

HTML = ("text/html", "application/xhtml+xml")


@dataclass(frozen=True, slots=True)
class Page:
    """One HTML page. `url` is where it was found at last, `source` the file or seed that led to it."""

    url: str
    body: bytes
    charset: str | None  # as the HTTP header says
    robots_tags: tuple[str, ...]  # values of X-Robots-Tag
    source: str
