"""Links to images, archived images, and the counters of a source."""

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
    """An image inside a source file: `length` bytes from `offset`.

    `archive` is the file name as in the manifest; the bytes are a member of a tar or a record of a WARC file.
    """

    archive: str
    offset: int
    length: int


class Link(NamedTuple):
    """One image with its AltText. `url` is canonical; `uid` is None unless the source provides one.

    A tuple, because a crawl creates millions of links and frozen dataclasses are several times slower to create.
    """

    url: str
    alttext: str | None
    page_url: str | None
    page_title: str | None
    figcaption: str | None
    language: str | None
    source: str  # file or seed that contains it
    uid: str | None = None
    scores: str | None = None  # JSON object of numbers from the source
    stored: ByteRange | None = None


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image in an archive: the record of the response for `url` in file `archive`.

    `offset` and `length` are None for a revisit record, which refers to an identical image: the record with the same
    payload `digest`, or the record of the URL `refers_to`.
    """

    url: str  # canonical, as is `refers_to`
    archive: str
    offset: int | None
    length: int | None
    digest: str | None
    refers_to: str | None


@dataclass(slots=True)
class Stats:
    """Counters and inputs of a source.

    `counters`: pages, images, `skipped.<reason>` of images, `page_skipped.<reason>` of pages; for archived images held,
    revisited, `held_skipped.<reason>`.
    """

    counters: Counter[str] = field(default_factory=Counter)
    inputs: list[Input] = field(default_factory=list)


def uid(url: str, alttext: str | None) -> str:
    """Return the uid of an image and its AltText, 32 hex digits. Missing and empty AltText are equal."""
    return hashlib.sha256(f"{url}\0{alttext or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def extract_links(page: Page, product: str | None, stats: Stats) -> list[Link]:
    """Return the images of *page*, none if it opts out. *product* is our name in robots.txt; None ignores opt-outs."""
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
