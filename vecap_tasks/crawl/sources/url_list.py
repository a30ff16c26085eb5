"""Lists of image addresses with their captions, as img2dataset takes them and as the known datasets are published."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from vecap_tasks.config import Config, UrlSource
from vecap_tasks.core.files import find_files
from vecap_tasks.crawl.http.url import absolute
from vecap_tasks.crawl.sources.columns import Row
from vecap_tasks.crawl.sources.link import Link, Stats
from vecap_tasks.crawl.sources.table_rows import read_rows
from vecap_tasks.errors import Failure, failure_of

log = logging.getLogger(__name__)


class UrlFiles:
    """The rows that have a usable address, in the order of the file. A part is a file.

    Every row counts as one of `images`, and the others once each as `skipped.<reason>`: `no_url` (empty), `bad_url`,
    `scheme` (no HTTP address), `not_utf8`, `bad_row` (another number of fields than the header, or no JSON object).
    """

    def __init__(self, config: Config, section: UrlSource, interval: str) -> None:
        self._section = section
        self._files = find_files(config, section.paths, kind="URL", setting="crawl.source.paths", interval=interval)

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        given = 0
        for row in read_rows(self._files[part], self._section, stats):
            stats.counters["images"] += 1
            try:
                link = _link(row, part)
            except Exception as error:
                stats.counters[f"skipped.{failure_of(error, f'{part}: {row.url}').reason}"] += 1
                continue
            given += 1
            yield link
        if not given:
            log.warning("%s: no row has a usable address; is crawl.source.url_column the right one?", part)


def _link(row: Row, part: str) -> Link:
    if row.problem is not None:
        raise Failure(row.problem)
    if not row.url or not row.url.strip():
        raise Failure("no_url")
    url = absolute(row.url, "")
    return Link(url, row.caption, None, None, None, None, part, row.uid, row.scores)
