"""WARC and ARC files as a source of pages and archived images.

A truncated or corrupt file raises an error, and none of its links are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from vecap_tasks.config import Config, WarcSource
from vecap_tasks.core.files import find_files
from vecap_tasks.core.isolation import pool
from vecap_tasks.core.isolation.child import Limits, Task
from vecap_tasks.core.isolation.messages import Item
from vecap_tasks.crawl.html.extract import EXTRACT, ExtractArguments
from vecap_tasks.crawl.html.parser import HTML
from vecap_tasks.crawl.http.robots import product_token
from vecap_tasks.crawl.http.url import canonical
from vecap_tasks.crawl.sources.link import ArchivedImage, Link, Stats, links_of
from vecap_tasks.crawl.warc.records import MAX_HEADER, HttpResponse, Record, Records, parse_response
from vecap_tasks.errors import Failure, PermanentError, failure_of

_CONTENT_KINDS = frozenset({"response", "resource"})
_REVISIT = "revisit"


@dataclass(frozen=True, slots=True)
class ArchivedPage:
    """The response of an HTML page. `url` is canonical."""

    url: str
    response: HttpResponse

    @property
    def item(self) -> Item:
        response = self.response
        arguments = ExtractArguments(
            self.url, response.charset, response.robots_tags, response.transfer, response.codings
        )
        return Item(self.url, response.raw, arguments)


class WarcFiles:
    """The HTML pages of response and resource records, in record order. A part is a file."""

    def __init__(self, config: Config, section: WarcSource, interval: str) -> None:
        self._max_bytes = config.crawl.fetch.max_bytes  # same limit as for downloads
        product = product_token(config.crawl.fetch.user_agent) if config.crawl.fetch.robots else None
        self._task = Task(EXTRACT, (product, self._max_bytes, False), Limits.of(config.crawl.limits))
        self._stored_images = section.stored_images
        self._files = find_files(config, section.paths, kind="WARC", setting="crawl.source.paths", interval=interval)

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, stats: Stats) -> Iterator[Link | ArchivedImage]:
        items = self.items(part, stats)
        entries = ((item, item.item if isinstance(item, ArchivedPage) else None) for item in items)
        for item, content in pool.imap(self._task, entries):
            if isinstance(item, ArchivedPage):
                yield from links_of(content, item.url, part, stats)
            else:
                yield item

    def items(self, part: str, stats: Stats) -> Iterator[ArchivedPage | ArchivedImage]:
        """Yield the pages of the file *part*, and its images if `stored_images` is set."""
        kinds: Counter[str] = Counter()
        kept = _CONTENT_KINDS | {_REVISIT} if self._stored_images else _CONTENT_KINDS
        with self._files[part].open() as stream:
            records = Records(stream, part, kept, self._max_bytes + MAX_HEADER)
            for record in records:
                kinds[record.kind] += 1
                try:
                    if record.kind in _CONTENT_KINDS:
                        yield self._item(record, part, stats)
                    elif record.kind in kept and _may_be_image(parse_response(record)):
                        archived = _revisit(record, part)
                        stats.counters["revisited"] += 1
                        yield archived
                except _NotArchived as failure:
                    stats.counters[f"held_skipped.{failure.reason}"] += 1
                except Exception as error:
                    stats.counters[f"page_skipped.{failure_of(error, f'{part}: {record.url}').reason}"] += 1
            stats.inputs.append(records.input())
        if not kinds.keys() & _CONTENT_KINDS:
            summary = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "no records"
            raise PermanentError(
                f"{part} contains no pages ({summary}); use the WARC file with the responses, or `kind: wat` for a WAT "
                "file"
            )

    def _item(self, record: Record, name: str, stats: Stats) -> ArchivedPage | ArchivedImage:
        """Return the page or the image of *record*. Raises Failure with the reason if it has none."""
        response = parse_response(record)
        if self._stored_images and response.status in (HTTPStatus.OK, None) and _is_image(response):
            archived = _archived_image(record, name)
            stats.counters["held"] += 1
            return archived
        if response.status not in (HTTPStatus.OK, None):
            raise Failure(f"http_{response.status}")
        if response.content_type not in HTML:
            raise Failure("not_html")
        return ArchivedPage(canonical(record.url), response)


class _NotArchived(Failure):
    """An archived image that cannot be read separately; it is downloaded instead."""


def _is_image(response: HttpResponse) -> bool:
    return response.content_type.startswith("image/")


def _may_be_image(revisit: HttpResponse) -> bool:
    """Return whether a revisit may be of an image; without an HTTP header, or for a 304, the type is unknown."""
    return _is_image(revisit) or revisit.content_type in ("", "application/http")


def _archived_image(record: Record, name: str) -> ArchivedImage:
    if record.offset is None:
        raise _NotArchived("packed_together")  # each read would decompress the member from its start
    if record.fields.get("warc-truncated"):
        raise _NotArchived("truncated")
    digest = record.fields.get("warc-payload-digest") or None
    return ArchivedImage(_canonical_or_skip(record.url), name, record.offset, record.length, digest, None)


def _revisit(record: Record, name: str) -> ArchivedImage:
    digest = record.fields.get("warc-payload-digest") or None
    # Without a target the revisit refers to its own URL: profile `server-not-modified`.
    same = record.fields.get("warc-refers-to-target-uri").removeprefix("<").removesuffix(">") or record.url
    return ArchivedImage(_canonical_or_skip(record.url), name, None, None, digest, _canonical_or_skip(same))


def _canonical_or_skip(url: str) -> str:
    try:
        return canonical(url)
    except Failure as failure:
        raise _NotArchived(failure.reason) from failure
