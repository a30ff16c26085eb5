"""An image as a source names it, and what a source counts while it is read."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from vecap_tasks.core.manifest import Input
from vecap_tasks.crawl.html.parser import Document, Page
from vecap_tasks.crawl.http.robots import opted_out
from vecap_tasks.errors import failure_of


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Where the bytes of an image lie already: `length` bytes from `offset` of a file of the source.

    `archive` is the file's name as the manifest has it; the bytes are a tar's member, or a record of a WARC file.
    """

    archive: str
    offset: int
    length: int


class Link(NamedTuple):
    """One image with its AltText. `url` is canonical; `uid` is None unless the source brings one of its own.

    A tuple, as a crawl makes millions of them: a frozen dataclass takes several times as long to make.
    """

    url: str
    alttext: str | None
    page_url: str | None
    page_title: str | None
    figcaption: str | None
    language: str | None
    source: str  # file or seed that it was found in
    uid: str | None = None
    scores: str | None = None  # JSON object of numbers that the source gives with the row
    stored: ByteRange | None = None


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image that the archive holds: at `url`, the answer's record in file `archive`.

    `offset` and `length` are None for a record that says only that the image was the same as another: the one whose
    payload has the same `digest`, as the archive writes it, or the one of the address `refers_to`.
    """

    url: str  # canonical, as is `refers_to`
    archive: str
    offset: int | None
    length: int | None
    digest: str | None
    refers_to: str | None


@dataclass(slots=True)
class Stats:
    """What was read.

    `counters`: pages, images, `skipped.<reason>` of images, `page_skipped.<reason>` of pages, and of images that
    the source holds itself held, revisited, `held_skipped.<reason>`.
    """

    counters: Counter[str] = field(default_factory=Counter)
    inputs: list[Input] = field(default_factory=list)


def uid(url: str, alttext: str | None) -> str:
    """Return the name of an image with its AltText, 32 hex digits. No AltText and an empty one are the same."""
    return hashlib.sha256(f"{url}\0{alttext or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def links_of(page: Page, product: str | None, stats: Stats) -> list[Link]:
    """Return the images of *page*; none where it opts out of our use. *product* is our name in robots.txt."""
    counters = stats.counters
    try:
        found = Document(page).found()
    except Exception as error:
        counters[f"page_skipped.{failure_of(error, page.url).reason}"] += 1
        return []
    counters["pages"] += 1
    counters["images"] += len(found.images) + found.skipped.total()
    counters.update({f"skipped.{reason}": count for reason, count in found.skipped.items()})
    if product is not None and opted_out((*page.robots_tags, *found.robots), product):
        counters["skipped.page_opt_out"] += len(found.images)
        return []
    return [
        Link(url, alttext, page.url, found.title, figcaption, language, page.source)
        for url, alttext, figcaption, language in found.images
    ]
