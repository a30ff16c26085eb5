"""Links to images, archived images, and the counters of a source."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vecap_tasks.core.manifest import Input
from vecap_tasks.crawl.html.extract import PageContent
from vecap_tasks.crawl.html.parser import FIGCAPTION_CHARS, LANGUAGE_CHARS, TITLE_CHARS
from vecap_tasks.errors import Failure
from vecap_tasks.redaction import any_known, conceal

_DIGEST_SCHEME = "ni:///sha-256;"
ALTTEXT_CHARS = 10_000  # the longest descriptions in textbooks have 4,000


@dataclass(frozen=True, slots=True)
class ByteRange:
    """An image inside a source file: `length` bytes from `offset`.

    `archive` is the file name as in the manifest; the bytes are a member of a tar, a record of a WARC file, or a whole
    file. In a table (`hf`), `offset` is the number of the row.
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
    alternatives: tuple[str, ...] = ()  # other URLs of the image, the best first, used if only they are archived
    kept: str | None = None  # JSON object of the source's columns in `keep_columns`


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
    revisited, `held_skipped.<reason>`; `cut.<column>` for texts that were shortened.
    """

    counters: Counter[str] = field(default_factory=Counter)
    inputs: list[Input] = field(default_factory=list)


def uid(url: str, alttext: str | None) -> str:
    """Return the uid of an image and its AltText, 32 hex digits. Missing and empty AltText are equal."""
    return hashlib.sha256(f"{url}\0{alttext or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def digest_url(sha256: bytes) -> str:
    """Return the `ni:` URI of an image that has no URL (RFC 6920).

    The URI is independent of the location of the image and cannot be downloaded.
    """
    return _DIGEST_SCHEME + base64.urlsafe_b64encode(sha256).decode("ascii").rstrip("=")


def is_digest_url(url: str) -> bool:
    """Return whether *url* is one of `digest_url`, so that it names the bytes of the image."""
    return url.startswith(_DIGEST_SCHEME)


def conceal_link(link: Link) -> Link:
    """Return *link* with `${NAME}` in place of secrets; its image is downloaded from `reveal(url)`."""
    if not any_known():
        return link
    texts = {name: value for name, value in link._asdict().items() if isinstance(value, str)}
    changed: dict[str, Any] = {name: clean for name, value in texts.items() if (clean := conceal(value)) != value}
    if link.alternatives and (alternatives := tuple(map(conceal, link.alternatives))) != link.alternatives:
        return link._replace(**changed, alternatives=alternatives)
    return link._replace(**changed) if changed else link


def shorten(link: Link, stats: Stats) -> Link:
    """Return *link* with texts of bounded length; what is cut is counted."""
    _, alttext, _, title, figcaption, language, *_ = link
    if alttext is not None and len(alttext) > ALTTEXT_CHARS:
        stats.counters["cut.caption"] += 1
        link = link._replace(alttext=alttext[:ALTTEXT_CHARS])
    if title is not None and len(title) > TITLE_CHARS:
        stats.counters["cut.page_title"] += 1
        link = link._replace(page_title=title[:TITLE_CHARS])
    if figcaption is not None and len(figcaption) > FIGCAPTION_CHARS:
        stats.counters["cut.figcaption"] += 1
        link = link._replace(figcaption=figcaption[:FIGCAPTION_CHARS])
    if language is not None and len(language) > LANGUAGE_CHARS:
        stats.counters["cut.language"] += 1
        link = link._replace(language=language[:LANGUAGE_CHARS])
    return link


def links_of(content: PageContent | Failure, url: str, source: str, stats: Stats) -> list[Link]:
    """Return the images of the page at *url*, none if it opts out or failed; count them."""
    counters = stats.counters
    if isinstance(content, Failure):
        counters[f"page_skipped.{content.reason}"] += 1
        return []
    title, images, skipped, opted_out, unread_figcaptions, _ = content
    counters["pages"] += 1
    counters["images"] += len(images) + (opted_out or 0) + sum(skipped.values())
    counters.update({f"skipped.{reason}": count for reason, count in skipped.items()})
    if unread_figcaptions:
        counters["cut.figcaption"] += unread_figcaptions
    if opted_out is not None:
        counters["skipped.page_opt_out"] += opted_out
    return [
        Link(address, alttext, url, title, figcaption, language, source, alternatives=alternatives)
        for address, alttext, figcaption, language, alternatives in images
    ]
