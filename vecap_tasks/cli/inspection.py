"""Inspects the data of a source for `vecap init`: its first rows, columns and images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vecap_tasks.config import Config
from vecap_tasks.errors import VecapError

if TYPE_CHECKING:
    from vecap_tasks.crawl.candidates import Source
    from vecap_tasks.crawl.sources.columns import Fields

_ROWS = 2000  # to read
_IMAGES = 3  # to decode
_PARTS = 3  # whose columns are read


@dataclass(slots=True)
class Findings:
    """What the inspected rows contain.

    `columns` are those of the first part that has some, `others` those of them that the crawl does not read.
    """

    parts: int = 0
    rows: int = 0
    complete: bool = True  # all rows were read
    captioned: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    decoded: list[str] = field(default_factory=list)  # sizes
    undecoded: Counter[str] = field(default_factory=Counter)
    columns: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield a summary."""
        more = "" if self.complete else " (the first ones)"
        parts = f"{self.parts:,} parts" if self.parts != 1 else "1 part"
        yield f"{self.rows:,} images{more} in {parts}, {self.captioned:,} with AltText"
        if self.columns:
            yield f"columns: {format_names(self.columns)}"
        for reason, count in self.skipped.most_common():
            yield f"{count:,} rows are not usable: {reason}"
        if self.decoded:
            yield f"decoded {len(self.decoded)} images: {', '.join(self.decoded)} pixels"
        for reason, count in self.undecoded.items():
            yield f"{count} images cannot be decoded: {reason}"


def format_names(names: list[str]) -> str:
    """Return the *names* of columns in one line: one with a line break would end a comment in the configuration."""
    return ", ".join(name if name.isprintable() else json.dumps(name) for name in names)


def inspect(config: Config) -> Findings:
    """Read the first rows, and decode the first images that are in the source's files. Raises VecapError."""
    from vecap_tasks.crawl.candidates import open_source
    from vecap_tasks.crawl.image.decode import decode
    from vecap_tasks.crawl.shard_images import image_reader
    from vecap_tasks.crawl.sources.link import ArchivedImage, ByteRange, Link, Stats
    from vecap_tasks.errors import Failure

    interval = datetime.now(UTC).date().isoformat()
    source, stats, found = open_source(config, interval), Stats(), Findings()
    parts = source.parts()
    found.parts = len(parts)
    fields = _fields(source, parts)
    found.columns, found.others = list(fields.names), fields.others
    read = image_reader(config, interval)
    rows = (row for part in parts for row in source.read(part, stats))
    for row in islice(rows, _ROWS):
        stored = row.stored if isinstance(row, Link) else None
        if isinstance(row, Link):
            found.rows += 1
            found.captioned += bool(row.alttext and row.alttext.strip())
        elif isinstance(row, ArchivedImage) and row.offset is not None and row.length is not None:
            stored = ByteRange(row.archive, row.offset, row.length)
        if stored is not None and len(found.decoded) + found.undecoded.total() < _IMAGES:
            try:
                image, _ = decode(read(stored), config.crawl.image)
                found.decoded.append(f"{image.original_width}x{image.original_height}")
            except Failure as failure:
                found.undecoded[failure.reason] += 1
    found.complete = next(rows, None) is None
    skipped = {key.partition(".")[2]: count for key, count in stats.counters.items() if key.startswith("skipped.")}
    found.skipped = Counter(skipped)
    if not found.rows:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items()) or "no rows"
        raise VecapError(f"{parts[0]} has no usable image ({reasons}); check --path and --from")
    return found


def _fields(source: Source, parts: list[str]) -> Fields:
    """Return the fields of the first part that has some; empty for sources without columns."""
    from vecap_tasks.crawl.sources.columns import Fields
    from vecap_tasks.crawl.sources.folder import FolderFiles
    from vecap_tasks.crawl.sources.hf import HfDataset
    from vecap_tasks.crawl.sources.url_list import UrlFiles
    from vecap_tasks.crawl.sources.webdataset import WebdatasetFiles

    if isinstance(source, FolderFiles | HfDataset | UrlFiles | WebdatasetFiles):
        for part in parts[:_PARTS]:
            if (fields := source.fields(part)).names:
                return fields
    return Fields()


def find_table_of_files(config: Config) -> Path | None:
    """Return the only table of a URL list if it has a column with file names and none with URLs."""
    from vecap_tasks.config import UrlSource
    from vecap_tasks.core.files import find_files
    from vecap_tasks.crawl.sources.columns import FILES, find_columns
    from vecap_tasks.crawl.sources.table_rows import column_names

    section = config.crawl.source
    if not isinstance(section, UrlSource):
        return None
    files = [*find_files(config, section.paths, kind="URL", setting="--path").values()]
    if len(files) != 1 or files[0].remote:
        return None
    names = column_names(files[0])
    has_files = (
        find_columns(names, section.url_column).url is None and find_columns(names, image_names=FILES).url is not None
    )
    return Path(files[0].location) if has_files else None


def find_local_folder(config: Config) -> Path | None:
    """Return the folder of the first URL list if its first row names a local file."""
    from vecap_tasks.config import UrlSource
    from vecap_tasks.core.files import find_files
    from vecap_tasks.crawl.sources.link import Stats
    from vecap_tasks.crawl.sources.local_files import is_local
    from vecap_tasks.crawl.sources.table_rows import read_rows

    section = config.crawl.source
    if not isinstance(section, UrlSource):
        return None
    file = next(iter(find_files(config, section.paths, kind="URL", setting="--path").values()))
    first = next((row.url for row in read_rows(file, section, Stats()) if row.url), None)
    return Path(file.location).parent if first is not None and not file.remote and is_local(first) else None
