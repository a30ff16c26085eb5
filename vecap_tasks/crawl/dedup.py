"""Finds duplicate images: equal bytes or similar perceptual hashes, in this version or in earlier ones.

The first row by key is kept; each duplicate is recorded with the kept row, the kind and the version. The quality stage
decides what happens to duplicates.

Each step reads and writes only narrow columns. Rows are distributed over parts by sha256, and equal images grouped in
each part; then over parts by perceptual hash, where images with equal hashes are grouped. Distinct hashes are compared
(`hamming.py`), and the kept ones chosen from the pairs. DuckDB spills to the work folder. After a kill, the next run
repeats only unfinished steps.
"""

# ruff: noqa: S608 - the queries contain only numbers and names of this package

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vecap_tasks.config import DuplicatesConfig
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.schemas import DUPLICATES
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, scan, write_rows, write_sorted
from vecap_tasks.crawl.hamming import BYTES_PER_HASH, PAIRS, Blocks, Group, Part, distribute, find_pairs, parts_for
from vecap_tasks.crawl.hash_index import (
    FOLDER,
    CrawlRows,
    CrawlTables,
    EarlierImages,
    PublishedCrawl,
    Steps,
    read_part,
    write_parts,
)

if TYPE_CHECKING:
    import duckdb

FILE = "duplicates.parquet"
_BATCH = 100_000
_FORMAT = 1  # of the steps; raise it when a step writes other rows
_THREADS = 2
_MIN_HASHES = 1 << 12  # to search in memory, whatever the limit
_COUNTERS = ("duplicates", "near_duplicates", "earlier_duplicates")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_HASHED = pa.schema(
    [
        pa.field("hash", pa.uint64()),
        pa.field("key", pa.string()),
        pa.field("uid", pa.string()),
        pa.field("is_first", pa.bool_()),  # of its image; the others are exact duplicates
        pa.field("in_earlier", pa.bool_()),  # the same image is in an earlier version
    ]
)
_COPIES = pa.schema([("position", pa.int64()), ("kept", pa.int64()), ("distance", pa.int32())])
_EXACT = """
    SELECT part_rows.key, part_rows.uid, images.uid AS duplicate_of, 'exact' AS kind, 0 AS distance,
        NULL::VARCHAR AS version
    FROM part_rows JOIN images USING (sha256) WHERE part_rows.key <> images.key
    UNION ALL
    SELECT part_rows.key, part_rows.uid, old.uid, 'exact', 0, version
    FROM part_rows JOIN old USING (sha256) JOIN versions ON number = origin[1]"""
# Only the first row of each image; the others are its exact duplicates.
_NEAR = """
    SELECT hashed.key, hashed.uid, coalesce(near.uid, points.uid), 'near', coalesce(near.distance, 0), NULL
    FROM hashed JOIN points ON points.hash = hashed.hash
    LEFT JOIN (SELECT * FROM copies WHERE part = $1) AS near ON near.hash = hashed.hash
    WHERE is_first AND (near.hash IS NOT NULL OR hashed.key <> points.key)
    UNION ALL
    SELECT hashed.key, hashed.uid, near.uid, 'near', near.distance, near.version
    FROM hashed JOIN (SELECT * FROM nearest WHERE part = $1) AS near ON near.hash = hashed.hash WHERE NOT in_earlier"""


@dataclass(frozen=True, slots=True)
class Found:
    """`rows` of `duplicates.parquet`, counters, and the names of the files of the index."""

    rows: int
    counters: dict[str, int]
    index: tuple[str, ...]


def write_duplicates(
    store: Store,
    tables: CrawlTables,
    earlier: Sequence[PublishedCrawl],
    config: DuplicatesConfig,
    memory_limit: str,
    folder: str,
    work: Path,
) -> Found:
    """Write DUPLICATES for the crawl *tables*, and the index of its hashes, to the folder *work*.

    Intermediate files are in *folder* of the store. *memory_limit* is that of DuckDB, and that of the search for near
    duplicates.
    """
    inputs = [
        _FORMAT,
        [file.sha256 for file in tables.files],
        [crawl.digest for crawl in earlier],
        config.near_distance,
    ]
    with connect(store, memory_limit, _THREADS, work) as connection:
        connection.execute("SET preserve_insertion_order = false")
        steps = Steps(store, f"{folder}/{digest(inputs)[:16]}", work / "steps")
        search = _Search(connection, store, steps, tables, earlier, work)
        search.group_images(near=config.near_distance is not None)
        if config.near_distance is not None:
            search.compare_hashes(config.near_distance)
        rows, counted = search.write(work / FILE)
        return Found(rows, dict(zip(_COUNTERS, counted, strict=True)), search.copy_index(work))


class _Search:
    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        store: Store,
        steps: Steps,
        tables: CrawlTables,
        earlier: Sequence[PublishedCrawl],
        work: Path,
    ) -> None:
        self._connection = connection
        self._steps = steps
        self._work = work
        self._earlier = EarlierImages(connection, store, steps, earlier, work)
        self._rows = CrawlRows(connection, store, steps, tables)
        self._parts = range(self._rows.count)
        connection.execute("""
            CREATE TEMP TABLE near_duplicates (
                key VARCHAR, uid VARCHAR, duplicate_of VARCHAR, kind VARCHAR, distance INTEGER, version VARCHAR)""")

    # Equal bytes

    def group_images(self, *, near: bool) -> None:
        """Group equal images, part by part: their duplicates, the index, and, with *near*, rows by perceptual hash."""
        for number in self._parts:
            if self._steps.is_done(self._hashed(number) if near else self._exact(number)):
                continue
            self._rows.open(number)
            self._open_earlier(number)
            self._rows.write_index(number)
            self._steps.make(
                self._exact(number),
                lambda path: write_sorted(self._connection, _EXACT, "key, version NULLS FIRST", path),
            )
            if near:
                self._steps.make(self._hashed(number), self._write_hashed)

    def _open_earlier(self, number: int) -> None:
        """Create the table `old`: those of the open part's images that are in earlier versions, with the first one."""
        self._connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE old AS
            SELECT sha256, min((number, key)) AS origin, arg_min(uid, (number, key)) AS uid
            FROM {self._scan_earlier(self._earlier.part_paths(number, self._rows.count))} AS earlier
            SEMI JOIN images USING (sha256) WHERE {self._rows.condition(number)} GROUP BY sha256""")

    def _scan_earlier(self, paths: Sequence[str]) -> str:
        """Return SQL of the rows of earlier indexes: number of the crawl, key, uid, sha256, phash."""
        columns = "number, key, uid, sha256, phash"
        if not paths:
            nothing = "0 AS number, '' AS key, '' AS uid, '' AS sha256, 0::UBIGINT AS phash"
            return f"(SELECT {columns} FROM (SELECT {nothing}) WHERE false)"
        return f"(SELECT {columns} FROM {scan(paths)} JOIN earlier_files USING (filename))"

    def _write_hashed(self, path: Path) -> None:
        found = self._connection.sql(f"""
            SELECT images.hash, part_rows.key, part_rows.uid, part_rows.key = images.key AS is_first,
                old.sha256 IS NOT NULL AS in_earlier, (images.hash & {self._mask})::INTEGER AS part
            FROM part_rows JOIN images USING (sha256) LEFT JOIN old USING (sha256)
            WHERE images.hash IS NOT NULL ORDER BY part, part_rows.key""").to_arrow_table()
        write_parts(found.select(_HASHED.names), found["part"].to_numpy(), self._rows.count, path)

    # Similar hashes

    def compare_hashes(self, distance: int) -> None:
        """Fill the table `near_duplicates`."""
        points = [f"points-{number:04d}.parquet" for number in self._parts]
        for number, name in enumerate(points):
            if not self._steps.is_done(name):
                self._open_hashed(number)
                self._steps.make(name, self._write_points)
        pairs = list(self._find_pairs(self._steps.paths(points), distance))
        self._connection.execute(f"CREATE VIEW pairs AS SELECT * FROM {scan(self._steps.paths(pairs))}")
        self._connection.execute(f"CREATE VIEW all_points AS SELECT * FROM {scan(self._steps.paths(points))}")
        self._choose_kept()
        self._choose_nearest()
        for number, path in enumerate(self._steps.paths(points)):
            self._open_hashed(number)
            self._connection.execute(f"CREATE OR REPLACE TEMP VIEW points AS SELECT * FROM {scan([path])}")
            self._connection.execute(f"INSERT INTO near_duplicates {_NEAR}", [number])

    def _open_hashed(self, number: int) -> None:
        paths = self._steps.paths([self._hashed(number) for number in self._parts])
        self._connection.register("hashed", read_part(paths, number, _HASHED))

    def _write_points(self, path: Path) -> None:
        """Write the first image of each hash of the open part."""
        query = "SELECT hash, min(key) AS key, arg_min(uid, key) AS uid FROM hashed WHERE is_first GROUP BY hash"
        write_sorted(self._connection, query, "hash", path)

    def _find_pairs(self, points: Sequence[str], distance: int) -> Iterator[str]:
        """Yield the names of the steps with all pairs of hashes within *distance* bits."""
        current, earlier = _blocks(points, "hash"), _blocks(self._earlier.paths, "phash")
        rows = sum(pq.read_metadata(path).num_rows for path in (*points, *self._earlier.paths))
        whole, max_rows = Part(Group(), current, earlier, rows), self._max_hashes()
        folder = self._work / "pairs"
        folder.mkdir()
        if rows <= max_rows:
            yield self._write_pairs("pairs.parquet", whole, distance, max_rows, folder)
            return
        count = parts_for(rows, max_rows)
        for group in whole.group.divide(distance):
            names = [f"pairs-{group.path[-1].start}-{number:04d}-of-{count:04d}.parquet" for number in range(count)]
            if not all(map(self._steps.is_done, names)):
                for name, part in zip(names, distribute(whole, group, count, folder), strict=True):
                    self._write_pairs(name, part, distance, max_rows, folder)
            yield from names

    def _write_pairs(self, name: str, part: Part, distance: int, max_rows: int, folder: Path) -> str:
        self._steps.make(name, lambda path: write_rows(find_pairs(part, distance, max_rows, folder), PAIRS, path))
        return name

    def _max_hashes(self) -> int:
        limit = self._connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
        number, unit = limit.split()
        return max(_MIN_HASHES, int(float(number) * _UNITS[unit]) // BYTES_PER_HASH)

    def _choose_kept(self) -> None:
        """Create the table `copies` (hash, part, uid of the kept image, distance) from `pairs`."""
        self._connection.execute("""
            CREATE TEMP TABLE nodes AS
            SELECT hash, uid, row_number() OVER (ORDER BY key) - 1 AS position FROM all_points SEMI JOIN (
                SELECT hash FROM pairs WHERE NOT is_earlier UNION SELECT other FROM pairs WHERE NOT is_earlier
            ) USING (hash)""")
        count = self._connection.execute("SELECT count(*) FROM nodes").fetchall()[0][0]
        ordered = self._connection.sql("""
            SELECT greatest(a.position, b.position) AS later, least(a.position, b.position) AS earlier, distance
            FROM pairs JOIN nodes AS a ON a.hash = pairs.hash JOIN nodes AS b ON b.hash = other WHERE NOT is_earlier
            ORDER BY later, distance, earlier""").to_arrow_reader(_BATCH)
        path = self._work / "copies.parquet"
        write_rows(choose_kept(ordered, count), _COPIES, path)
        self._connection.execute(f"""
            CREATE TEMP TABLE copies AS
            SELECT nodes.hash, nodes.hash & {self._mask} AS part, first.uid, distance
            FROM {scan([str(path)])} AS found JOIN nodes USING (position) JOIN nodes AS first ON first.position = kept
            ORDER BY part""")
        self._connection.execute("DROP TABLE nodes")

    def _choose_nearest(self) -> None:
        """Create the table `nearest` (hash, part, uid, distance, version): the nearest image of earlier versions."""
        self._connection.execute(f"""
            CREATE TEMP TABLE nearest AS
            SELECT hash, hash & {self._mask} AS part, uid, distance, version
            FROM (
                SELECT pairs.hash, arg_min(uid, (distance, origin)) AS uid, min(distance) AS distance,
                    arg_min(origin[1], (distance, origin)) AS number
                FROM pairs JOIN (
                    SELECT phash, min((number, key)) AS origin, arg_min(uid, (number, key)) AS uid
                    FROM {self._scan_earlier(self._earlier.paths)} AS earlier
                    SEMI JOIN (SELECT other FROM pairs WHERE is_earlier) AS wanted ON other = phash GROUP BY phash
                ) AS old ON phash = other
                WHERE is_earlier GROUP BY pairs.hash
            ) JOIN versions USING (number)
            ORDER BY part""")

    # Results

    def write(self, path: Path) -> tuple[int, tuple[int, ...]]:
        """Write all duplicates to *path*; return their number, and that of each kind."""
        exact = self._steps.paths([self._exact(number) for number in self._parts])
        columns = ", ".join(DUPLICATES.names)
        self._connection.execute(f"""
            CREATE TEMP VIEW found AS
            SELECT {columns} FROM {scan(exact)} UNION ALL SELECT {columns} FROM near_duplicates""")
        ordered = self._connection.sql("SELECT * FROM found ORDER BY key, version NULLS FIRST")
        rows = write_rows(ordered.to_arrow_reader(_BATCH), DUPLICATES, path)
        counted = self._connection.execute("""
            SELECT count(*) FILTER (version IS NULL AND kind = 'exact'),
                count(*) FILTER (version IS NULL AND kind = 'near'), count(version) FROM found""").fetchall()[0]
        return rows, counted

    def copy_index(self, work: Path) -> tuple[str, ...]:
        """Copy the index to *work* and return the names of its files."""
        (work / FOLDER).mkdir()
        names = []
        for number, path in enumerate(self._rows.index_paths()):
            names.append(f"{FOLDER}/{self._rows.index_name(number)}")
            shutil.copyfile(path, work / names[-1])
        return tuple(names)

    @property
    def _mask(self) -> int:
        return self._rows.count - 1

    def _exact(self, number: int) -> str:
        return f"exact-{number:04d}.parquet"

    def _hashed(self, number: int) -> str:
        return f"hashed-{number:04d}.arrow"


def choose_kept(pairs: Iterable[pa.RecordBatch], points: int) -> Iterator[pa.RecordBatch]:
    """Yield position, kept position and distance of each copy, from *pairs* (later, earlier, distance) in order.

    In order, each of the *points* is kept unless it is near a kept point; then it is a copy of the nearest one. A copy
    never refers to another copy, however long a chain of small changes is. Memory: one byte per point.
    """
    dropped = bytearray(points)
    for batch in pairs:
        copies = []
        for later, earlier, distance in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if not dropped[later] and not dropped[earlier]:
                dropped[later] = 1
                copies.append({"position": later, "kept": earlier, "distance": distance})
        yield pa.RecordBatch.from_pylist(copies, schema=_COPIES)


def _blocks(paths: Sequence[str], column: str) -> Blocks:
    """Return a function that reads *column* (UBIGINT) of the files *paths* in blocks, without nulls."""

    def read() -> Iterator[np.ndarray]:
        for path in paths:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=[column]):
                    yield pc.drop_null(batch.column(0)).to_numpy()

    return read
