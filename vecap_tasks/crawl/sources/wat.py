"""WAT files as a source: JSON metadata that Common Crawl's ia-web-commons extracts from WARC records.

A record has the page's URL, title, metas and links; `IMG@/src` links are images. It has no figcaption, language,
`srcset` or lazy-loading URL, so the pages themselves (`kind: warc`) give more and better links.
"""

from __future__ import annotations

from collections.abc import Iterator

from vecap_tasks.config import Config, WatSource
from vecap_tasks.core.files import find_files
from vecap_tasks.core.isolation import pool
from vecap_tasks.core.isolation.child import Limits, Task
from vecap_tasks.core.isolation.messages import Item
from vecap_tasks.crawl.http.robots import product_token
from vecap_tasks.crawl.sources.link import Link, Stats
from vecap_tasks.crawl.sources.wat_record import READ_RECORD
from vecap_tasks.crawl.warc.records import Records
from vecap_tasks.errors import Failure, PermanentError

_KINDS = frozenset({"metadata"})
_MAX_RECORD = 1 << 24  # bytes; Common Crawl's longest records have a few million, and 16 MiB take 400 MB as objects


class WatFiles:
    """The images of the pages in WAT files, in record order. A part is a file."""

    def __init__(self, config: Config, section: WatSource, interval: str) -> None:
        product = product_token(config.crawl.fetch.user_agent) if config.crawl.fetch.robots else None
        self._task = Task(READ_RECORD, (product,), Limits.of(config.crawl.limits))
        self._files = find_files(config, section.paths, kind="WAT", setting="crawl.source.paths", interval=interval)

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        linked = 0
        with self._files[part].open() as stream:
            records = Records(stream, part, _KINDS, _MAX_RECORD)
            items = (
                (None, Item(f"{part}: {record.url}", record.block or b"", (record.url,)))
                for record in records
                if record.kind in _KINDS
            )
            for _, page in pool.imap(self._task, items):
                if isinstance(page, Failure):
                    stats.counters[f"page_skipped.{page.reason}"] += 1
                elif page is not None:
                    linked += page.linked
                    stats.counters.update(page.counters)
                    for url, alttext in page.images:
                        yield Link(url, alttext, page.url, page.title, None, None, part)
            stats.inputs.append(records.input())
        if not linked:
            raise PermanentError(
                f"{part} contains no links: none of its {records.number} records describes a page with links; "
                "use the WAT file of a WARC file with responses"
            )
