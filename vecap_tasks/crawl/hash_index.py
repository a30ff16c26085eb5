"""The index of a crawl's image hashes, by which later versions find duplicates without reading its tables.

It has one row per distinct image, in files by the first digits of the sha256. The rows of a crawl are first distributed
over as many parts, then each part is grouped. Files of unfinished steps are intermediate files of the stage.
"""

# ruff: noqa: S608 - the queries contain only numbers and names of this package

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from vecap_tasks.core.intermediate import RECORD, fetch, fetch_intermediate, put_recorded
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.schemas import CRAWL
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import create_view, write_sorted
from vecap_tasks.core.verify import RecordedFile, check_recorded, recorded_files
from vecap_tasks.core.version import Version, list_versions, published
from vecap_tasks.crawl.shard_images import SUCCESS

if TYPE_CHECKING:
    import duckdb

FOLDER = "hashes"  # of the index in the crawl's folder
_PART_ROWS = 1 << 21  # rows of a part; the names of the index depend on it
_MAX_PARTS = 1 << 12
_BATCH_ROWS = 1 << 20  # rows to distribute at a time
_ROWS = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("uid", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("hash", pa.uint64()),
    ]
)


@dataclass(frozen=True, slots=True)
class CrawlTables:
    """The tables (CRAWL) of a crawl, and the number of rows in all of them."""

    files: tuple[RecordedFile, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class PublishedCrawl:
    """A published crawl of another interval: version name, manifest digest, tables, and the files of its index.

    Crawls of earlier releases have no index.
    """

    version: str
    digest: str
    tables: CrawlTables
    index: tuple[RecordedFile, ...] = ()


def published_crawls(store: Store, version: Version) -> list[PublishedCrawl]:
    """Return the published crawls of other intervals, in order. Revisions may share a crawl."""
    remedy = "restore it, or set crawl.duplicates.earlier to false"
    found: dict[str, PublishedCrawl] = {}
    for candidate in list_versions(store, version.dataset):
        if candidate.interval == version.interval or published(store, candidate) is None:
            continue
        manifest = read_manifest(store, f"{candidate.folder}/crawl")
        if manifest is None:
            continue
        shards = [entry for entry in manifest.files if re.fullmatch(r"\d+\.parquet", entry.path)]
        tables = recorded_files(store, manifest, [manifest.file(entry.path) for entry in shards], remedy)
        names = [manifest.file(path) for path in manifest.entries if path.startswith(f"{FOLDER}/")]
        index = recorded_files(store, manifest, names, remedy)
        rows = sum(entry.rows or 0 for entry in shards)
        crawl = PublishedCrawl(candidate.name, manifest.digest, CrawlTables(tuple(tables), rows), tuple(index))
        found.setdefault(manifest.digest, crawl)
    return list(found.values())


def count_parts(rows: int) -> int:
    """Return the number of parts of a crawl with *rows* rows: a power of two."""
    return min(_MAX_PARTS, 1 << (max(1, -(-rows // _PART_ROWS)) - 1).bit_length())


class Steps:
    """Results of finished steps: recorded files in *folder* of the store, so that no later run repeats a step."""

    def __init__(self, store: Store, folder: str, work: Path) -> None:
        self._store = store
        self._folder = folder
        self._work = work
        self._recorded = set(store.files(folder))
        self._paths: dict[str, str] = {}
        work.mkdir()

    def is_done(self, name: str) -> bool:
        return name in self._paths or f"{name}{RECORD}" in self._recorded

    def make(self, name: str, write: Callable[[Path], object]) -> None:
        """Have *write* write the file *name*, and publish it, unless that is done."""
        if self.is_done(name):
            return
        path = self._work / name
        write(path)
        put_recorded(self._store, f"{self._folder}/{name}", path)
        self._paths[name] = str(path) if self._store.remote else self._store.path(f"{self._folder}/{name}")

    def paths(self, names: Sequence[str]) -> list[str]:
        """Return local paths to the files *names*; those of earlier runs are compared with their records.

        Raises VecapError if one differs; it is removed, so that the next run makes it again.
        """
        missing = [name for name in names if name not in self._paths]
        found = fetch_intermediate(self._store, [f"{self._folder}/{name}" for name in missing], self._work)
        self._paths.update(zip(missing, found, strict=True))
        return [self._paths[name] for name in names]


def write_parts(table: pa.Table, numbers: np.ndarray, count: int, path: Path) -> None:
    """Write *table* to *path* in *count* parts. *numbers* are those of the rows, which must be in order of them."""
    bounds = np.searchsorted(numbers, np.arange(count + 1))
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), table.schema, options=options) as writer:
        for start, end in pairwise(bounds):
            batches = table.slice(start, end - start).combine_chunks().to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema))


def read_part(paths: Sequence[str], number: int, schema: pa.Schema) -> pa.Table:
    """Return the rows of part *number* in the files *paths* of `write_parts`; *schema* if there are none."""
    batches = []
    for path in paths:
        with pa.OSFile(path) as source:
            batches.append(pa.ipc.open_file(source).get_batch(number))
    return pa.Table.from_batches(batches, batches[0].schema if batches else schema)


class CrawlRows:
    """The downloaded rows of a crawl, distributed over `count` parts by their sha256; equal images are in one part."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, store: Store, steps: Steps, tables: CrawlTables, prefix: str = ""
    ) -> None:
        self.count = count_parts(tables.rows)
        self._connection = connection
        self._store = store
        self._steps = steps
        self._tables = tables
        self._prefix = prefix
        self._names: list[str] | None = None

    def open(self, number: int) -> None:
        """Create the view `part_rows` (key, uid, sha256, hash) of part *number* and the table `images`.

        `images` has the first row by key of each distinct image.
        """
        if self._names is None:
            self._names = list(self._distribute())
        self._connection.register("part_rows", read_part(self._steps.paths(self._names), number, _ROWS))
        self._connection.execute("""
            CREATE OR REPLACE TEMP TABLE images AS
            SELECT sha256, min(key) AS key, arg_min(uid, key) AS uid, min(hash) AS hash FROM part_rows GROUP BY sha256
            """)

    def condition(self, number: int) -> str:
        """Return the SQL condition for the sha256 of part *number*."""
        first, end = (f"{65536 * part // self.count:04x}" for part in (number, number + 1))
        return f"sha256 >= '{first}'" + (f" AND sha256 < '{end}'" if number + 1 < self.count else "")

    def index_name(self, number: int) -> str:
        return f"{self._prefix}{number:04d}-of-{self.count:04d}.parquet"

    def write_index(self, number: int) -> None:
        """Write the index of part *number*, which is open."""
        query = "SELECT key, uid, sha256, hash AS phash FROM images"
        self._steps.make(self.index_name(number), lambda path: write_sorted(self._connection, query, "sha256", path))

    def index_paths(self) -> list[str]:
        """Return local paths to the files of the index, after writing those that are missing."""
        names = [self.index_name(number) for number in range(self.count)]
        for number, name in enumerate(names):
            if not self._steps.is_done(name):
                self.open(number)
                self.write_index(number)
        return self._steps.paths(names)

    def _distribute(self) -> Iterator[str]:
        files = self._tables.files
        step = max(1, _BATCH_ROWS * len(files) // max(1, self._tables.rows))
        for start in range(0, len(files), step):
            name = f"{self._prefix}rows-{start:07d}.arrow"
            batch = [file.name for file in files[start : start + step]]
            self._steps.make(name, lambda path, batch=batch: self._write_rows(batch, path))  # type: ignore[misc]
            yield name

    def _write_rows(self, tables: Sequence[str], path: Path) -> None:
        create_view(self._connection, self._store, "crawl_tables", tables, CRAWL)
        rows = self._connection.sql(f"""
            SELECT key, uid, sha256, ('0x' || phash)::UBIGINT AS hash,
                ('0x' || sha256[1:4])::INTEGER * {self.count} // 65536 AS part
            FROM crawl_tables WHERE status = '{SUCCESS}' ORDER BY part, key""").to_arrow_table()
        self._connection.execute("DROP VIEW crawl_tables")
        write_parts(rows.select(_ROWS.names), rows["part"].to_numpy(), self.count, path)


class EarlierImages:
    """The indexes of earlier crawls, in order. Those of crawls without one are made from their tables."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        store: Store,
        steps: Steps,
        crawls: Sequence[PublishedCrawl],
        work: Path,
    ) -> None:
        self._connection = connection
        self._files: list[tuple[str, int, float, float]] = []  # path, crawl, first and last share of the sha256
        for number, crawl in enumerate(crawls):
            if crawl.index:
                paths = fetch(crawl.index, work / f"earlier-{number}")
            else:
                check_recorded(crawl.tables.files)
                paths = CrawlRows(connection, store, steps, crawl.tables, f"earlier-{number:04d}-").index_paths()
            self._files += [
                (path, number, part / len(paths), (part + 1) / len(paths)) for part, path in enumerate(sorted(paths))
            ]
        names = pa.table({"number": pa.array(range(len(crawls)), pa.int64()), "version": _texts(crawls)})
        connection.register("version_names", names)
        connection.execute("CREATE OR REPLACE TEMP TABLE versions AS SELECT * FROM version_names")
        located = {"filename": [file[0] for file in self._files], "number": [file[1] for file in self._files]}
        connection.register(
            "file_numbers", pa.table(located, pa.schema([("filename", pa.string()), ("number", pa.int64())]))
        )
        connection.execute("CREATE OR REPLACE TEMP TABLE earlier_files AS SELECT * FROM file_numbers")

    @property
    def paths(self) -> list[str]:
        return [file[0] for file in self._files]

    def part_paths(self, number: int, count: int) -> list[str]:
        """Return the paths to the files that may hold images of part *number* of *count*."""
        first, last = number / count, (number + 1) / count
        return [path for path, _, start, end in self._files if start < last and end > first]


def _texts(crawls: Sequence[PublishedCrawl]) -> pa.Array:
    return pa.array([crawl.version for crawl in crawls], pa.string())
