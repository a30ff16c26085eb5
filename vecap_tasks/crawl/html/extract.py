"""Extracts the images and links of a page in one call, for a child process. Imports little."""

from __future__ import annotations

from typing import NamedTuple

from vecap_tasks.crawl.html.parser import Document, Page
from vecap_tasks.crawl.http.content_encoding import decode_body
from vecap_tasks.crawl.http.robots import opted_out

EXTRACT = "vecap_tasks.crawl.html.extract:extract"


class PageContent(NamedTuple):
    """The content of a page.

    `images` are plain tuples of URL, AltText, figcaption, language and alternative URLs, because named ones take five
    times as long to pass between processes. If the page opts out, `opted_out` is their number and `images` is empty.
    """

    title: str | None
    images: list[tuple[str, str | None, str | None, str | None, tuple[str, ...]]]
    skipped: dict[str, int]  # images without a usable URL, by reason
    opted_out: int | None
    unread_figcaptions: int  # not read because the captions of the page are too long
    links: list[str]  # URLs of other pages


class ExtractArguments(NamedTuple):
    """Arguments of `extract` for one page, as in Page and HttpResponse."""

    url: str
    charset: str | None
    robots_tags: tuple[str, ...]
    transfer: str = ""
    codings: tuple[str, ...] = ()


def extract(
    body: bytes,
    url: str,
    charset: str | None,
    robots_tags: tuple[str, ...],
    transfer: str,
    codings: tuple[str, ...],
    product: str | None,
    max_bytes: int,
    links: bool,
) -> PageContent:
    """Return the content of the page with the encoded *body*.

    *product* is our name in robots.txt; None ignores opt-outs. The links to other pages are returned if *links* is set.
    Raises Failure: `bad_encoding`, or `too_large` for more than *max_bytes*.
    """
    document = Document(Page(url, decode_body(body, transfer, codings, max_bytes), charset, robots_tags, ""))
    found = document.found()
    images = [
        (url, alttext, figcaption, language, alternatives)
        for url, alttext, figcaption, language, alternatives in found.images
    ]
    opted = product is not None and opted_out((*robots_tags, *found.robots), product)
    return PageContent(
        found.title,
        [] if opted else images,
        dict(found.skipped),
        len(images) if opted else None,
        found.unread_figcaptions,
        document.links() if links else [],
    )
