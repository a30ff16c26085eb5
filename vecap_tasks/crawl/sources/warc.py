"""Pages and images from WARC and ARC files. A file that is not whole is refused when its fault is reached.

The links of a file appear when all of it was read, so nothing is made of the part before the fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus

from vecap_tasks.config import Config, WarcSource
from vecap_tasks.core.files import find_files
from vecap_tasks.crawl.html.parser import HTML, Page
from vecap_tasks.crawl.http.robots import product_token
from vecap_tasks.crawl.http.url import canonical
from vecap_tasks.crawl.sources.link import ArchivedImage, Link, Stats, links_of
from vecap_tasks.crawl.warc.records import MAX_HEADER, HttpResponse, Record, Records, parse_response
from vecap_tasks.errors import Failure, PermanentError, failure_of

_HOLDS = frozenset({"response", "resource"})
_REVISIT = "revisit"


class WarcFiles:
    """The HTML pages of the response and resource records, in the order of the records. A part is a file."""

    def __init__(self, config: Config, section: WarcSource, interval: str) -> None:
        self._max_bytes = config.crawl.fetch.max_bytes  # as for pages and images that are fetched
        self._product = product_token(config.crawl.fetch.user_agent) if config.crawl.fetch.robots else None
        self._stored_images = section.stored_images
        self._files = find_files(config, section.paths, kind="WARC", setting="crawl.source.paths", interval=interval)

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, stats: Stats) -> Iterator[Link | ArchivedImage]:
        for item in self.items(part, stats):
            if isinstance(item, Page):
                yield from links_of(item, self._product, stats)
            else:
                yield item

    def items(self, part: str, stats: Stats) -> Iterator[Page | ArchivedImage]:
        """Give the pages of the file *part*, and the images that it holds if they are to be taken from there."""
        kinds: Counter[str] = Counter()
        kept = _HOLDS | {_REVISIT} if self._stored_images else _HOLDS
        with self._files[part].open() as stream:
            records = Records(stream, part, kept, self._max_bytes + MAX_HEADER)
            for record in records:
                kinds[record.kind] += 1
                try:
                    if record.kind in _HOLDS:
                        yield self._item(record, part, stats)
                    elif record.kind in kept and _may_be_image(parse_response(record)):
                        held = _revisit(record, part)
                        stats.counters["revisited"] += 1
                        yield held
                except _Unheld as unheld:
                    stats.counters[f"held_skipped.{unheld.reason}"] += 1
                except Exception as error:
                    stats.counters[f"page_skipped.{failure_of(error, f'{part}: {record.url}').reason}"] += 1
            stats.inputs.append(records.input())
        if not kinds.keys() & _HOLDS:
            said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing"
            raise PermanentError(
                f"{part} holds no pages ({said}); WAT files want `kind: wat` and WET files have none: "
                "give the WARC file with the responses"
            )

    def _item(self, record: Record, name: str, stats: Stats) -> Page | ArchivedImage:
        """Return the page or the image of *record*. Raises Failure saying why it holds none."""
        answer = parse_response(record)
        if self._stored_images and answer.status in (HTTPStatus.OK, None) and _is_image(answer):
            held = _archived_image(record, name)
            stats.counters["held"] += 1
            return held
        if answer.status not in (HTTPStatus.OK, None):
            raise Failure(f"http_{answer.status}")
        if answer.content_type not in HTML:
            raise Failure("not_html")
        url = canonical(record.url)
        return Page(url, answer.body(self._max_bytes), answer.charset, answer.robots_tags, name)


class _Unheld(Failure):
    """An image is in the archive, but cannot be taken from there: it is fetched."""


def _is_image(answer: HttpResponse) -> bool:
    return answer.content_type.startswith("image/")


def _may_be_image(revisit: HttpResponse) -> bool:
    """Say whether a revisit may be of an image: no type is said without the answer's header, nor by a 304."""
    return _is_image(revisit) or revisit.content_type in ("", "application/http")


def _archived_image(record: Record, name: str) -> ArchivedImage:
    if record.offset is None:
        raise _Unheld("packed_together")  # the gzip member would have to be unpacked from its beginning each time
    if record.fields.get("warc-truncated"):
        raise _Unheld("truncated")
    digest = record.fields.get("warc-payload-digest") or None
    return ArchivedImage(_address(record.url), name, record.offset, record.length, digest, None)


def _revisit(record: Record, name: str) -> ArchivedImage:
    digest = record.fields.get("warc-payload-digest") or None
    # Where nothing is said, the same address was seen before: the profile `server-not-modified`.
    same = record.fields.get("warc-refers-to-target-uri").removeprefix("<").removesuffix(">") or record.url
    return ArchivedImage(_address(record.url), name, None, None, digest, _address(same))


def _address(url: str) -> str:
    try:
        return canonical(url)
    except Failure as failure:
        raise _Unheld(failure.reason) from failure
