"""URL lists as a source: image URLs with captions, in the formats of img2dataset and published datasets."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from vecap_tasks.config import Config, UrlSource
from vecap_tasks.core.files import find_files
from vecap_tasks.crawl.http.url import absolute
from vecap_tasks.crawl.sources.columns import Fields, Row, log_dropped
from vecap_tasks.crawl.sources.link import ByteRange, Link, Stats
from vecap_tasks.crawl.sources.local_files import LocalFolders, is_local
from vecap_tasks.crawl.sources.table_rows import read_fields, read_rows
from vecap_tasks.errors import Failure, failure_of

log = logging.getLogger(__name__)

_FIRST_ROWS = 1000  # to check before the crawl


class UrlFiles:
    """The rows with a usable URL, in file order. A part is a file.

    Every row counts in `images`; an unusable row also in `skipped.<reason>`: `no_url` (empty), `bad_url`, `scheme` (not
    HTTP), `not_utf8`, `bad_row` (wrong number of fields, or not a JSON object), `large_row`. With `allow_folders`, a
    local file has the reasons of `LocalFolders`. Values that are not used count in `dropped.<field>`, such as
    `dropped.caption` and `dropped.caption_variants`.
    """

    def __init__(self, config: Config, section: UrlSource, interval: str) -> None:
        self._section = section
        self._folders = LocalFolders(config, section.allow_folders, interval)
        self._files = find_files(config, section.paths, kind="URL", setting="crawl.source.paths", interval=interval)

    def parts(self) -> list[str]:
        return list(self._files)

    def read(self, part: str, stats: Stats) -> Iterator[Link]:
        file = self._files[part]
        base = None if file.remote else Path(file.location).parent
        yielded = 0
        dropped: Counter[str] = Counter()
        for row in read_rows(file, self._section, stats):
            stats.counters["images"] += 1
            if row.dropped:
                dropped.update(dict(row.dropped))
            try:
                link = self._link(row, part, base)
            except Exception as error:
                stats.counters[f"skipped.{failure_of(error, f'{part}: {row.url}').reason}"] += 1
                continue
            yielded += 1
            yield link
        stats.counters.update({f"dropped.{field}": count for field, count in dropped.items()})
        log_dropped(dropped, part)
        if not yielded:
            unset = stats.counters["skipped.scheme"] and not self._section.allow_folders
            local = "; for local files, set crawl.source.allow_folders" if unset else ""
            log.warning("%s: no row has a usable URL; check crawl.source.url_column%s", part, local)

    def fields(self, part: str) -> Fields:
        """Return the columns of *part*."""
        return read_fields(self._files[part], self._section)

    def first_problem(self, part: str) -> str | None:
        """Return why none of the first rows of *part* has a usable URL or local file; None if one has."""
        file = self._files[part]
        base = None if file.remote else Path(file.location).parent
        first: tuple[str, Failure] | None = None
        for row in islice(read_rows(file, self._section, Stats()), _FIRST_ROWS):
            try:
                self._link(row, part, base)
            except Exception as error:
                failure = failure_of(error, f"{part}: {row.url}")
                first = first or ((row.url[:100], failure) if row.url and row.url.strip() else None)
            else:
                return None
        if first is None:
            return f"{part} has no rows with a URL; check the file and crawl.source.url_column"
        url, failure = first
        if self._section.allow_folders and is_local(url):
            return (
                f"{part}: {url!r} cannot be read ({failure.message}), nor can any other of the first rows; names are "
                "relative to the list, and crawl.source.allow_folders must have their folder"
            )
        return (
            f"{part}: {url!r} is not a URL, nor is any other of the first rows; set crawl.source.url_column, or for "
            "images on this machine use `kind: folder` or crawl.source.allow_folders"
        )

    def _link(self, row: Row, part: str, base: Path | None) -> Link:
        if row.problem is not None:
            raise Failure(row.problem)
        reference = (row.url or "").strip()
        if not reference:
            raise Failure("bad_url" if any(field == "url" for field, _ in row.dropped) else "no_url")
        link = Link(reference, row.caption, None, None, None, None, part, row.uid, row.scores, kept=row.kept)
        if not self._section.allow_folders or not is_local(reference):
            return link._replace(url=absolute(row.url or "", ""))
        file = self._folders.locate(reference, base)
        return link._replace(url=self._folders.image(file)[0], stored=ByteRange(file.name, 0, file.size))
