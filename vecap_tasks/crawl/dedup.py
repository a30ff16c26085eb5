"""Finds duplicate images: equal bytes or similar perceptual hashes, in this version or in earlier ones.

The first row by key is kept; each duplicate is recorded with the kept row, the kind and the version. The quality stage
decides what happens to duplicates. DuckDB runs the queries and spills to disk.
"""

# ruff: noqa: S608 - the queries contain only numbers and names of this package

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from vecap_tasks.config import DuplicatesConfig
from vecap_tasks.core.manifest import read_manifest
from vecap_tasks.core.schemas import CRAWL, DUPLICATES
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, create_view, write_rows
from vecap_tasks.core.verify import RecordedFile, check_recorded, recorded_files
from vecap_tasks.core.version import Version, list_versions, published
from vecap_tasks.crawl.shard_images import SUCCESS

if TYPE_CHECKING:
    import duckdb

_BATCH = 100_000
_MAX_BUCKET = 512  # hashes in a bucket; larger buckets are split
_BANDS = ", ".join(f"(hash >> {16 * band}) & 65535" for band in range(4))
_EXACT = f"""
    SELECT crawl.key, crawl.uid, current.uid AS duplicate_of, 'exact' AS kind, 0 AS distance, NULL::VARCHAR AS version
    FROM crawl JOIN current_images AS current USING (sha256)
    WHERE status = '{SUCCESS}' AND crawl.key <> current.key"""
_EXACT_EARLIER = f"""
    SELECT crawl.key, crawl.uid, earlier_images.uid, 'exact', 0, version
    FROM crawl JOIN earlier_images USING (sha256) JOIN versions ON number = origin[1] WHERE status = '{SUCCESS}'"""
# Only the first row of each image; the others are its exact duplicates.
_NEAR = """
    SELECT current.key, current.uid, coalesce(kept.uid, points.uid), 'near', coalesce(copies.distance, 0), NULL
    FROM current_images AS current JOIN points ON points.phash = current.phash AND points.is_current
    LEFT JOIN copies ON copies.position = points.position LEFT JOIN points AS kept ON kept.position = copies.kept
    WHERE copies.position IS NOT NULL OR current.key <> points.key"""
_NEAR_EARLIER = f"""
    SELECT crawl.key, crawl.uid, old.uid, 'near', nearest.distance, version
    FROM (
        SELECT later, min((distance, earlier)) AS nearest, nearest[1] AS distance, nearest[2] AS earlier
        FROM pairs JOIN points ON position = earlier WHERE NOT is_current GROUP BY later
    ) AS nearest
    JOIN points AS new ON new.position = later JOIN points AS old ON old.position = nearest.earlier
    JOIN versions ON versions.number = old.number JOIN crawl ON crawl.phash = new.phash
    ANTI JOIN earlier_images ON earlier_images.sha256 = crawl.sha256 WHERE status = '{SUCCESS}'"""


@dataclass(frozen=True, slots=True)
class PublishedCrawl:
    """A published crawl of another interval: version name, manifest digest, and table names."""

    version: str
    digest: str
    tables: tuple[RecordedFile, ...]


def published_crawls(store: Store, version: Version) -> list[PublishedCrawl]:
    """Return the published crawls of other intervals, in order. Revisions may share a crawl."""
    found: dict[str, PublishedCrawl] = {}
    for candidate in list_versions(store, version.dataset):
        if candidate.interval == version.interval or published(store, candidate) is None:
            continue
        manifest = read_manifest(store, f"{candidate.folder}/crawl")
        if manifest is not None:
            names = manifest.files_ending(".parquet")
            names = [name for name in names if name.rsplit("/", 1)[1].removesuffix(".parquet").isdigit()]
            tables = recorded_files(store, manifest, names, "restore it, or set crawl.duplicates.earlier to false")
            found.setdefault(manifest.digest, PublishedCrawl(candidate.name, manifest.digest, tuple(tables)))
    return list(found.values())


def write_duplicates(
    store: Store,
    tables: Sequence[str],
    earlier: Sequence[PublishedCrawl],
    config: DuplicatesConfig,
    work: Path,
    path: Path,
) -> tuple[int, dict[str, int]]:
    """Write DUPLICATES for the shard *tables* (names in the store) to *path*; return the row count and counters."""
    with connect(store, work=work) as connection:
        connection.execute("SET preserve_insertion_order = false")
        create_view(connection, store, "crawl", tables, CRAWL)
        _load_earlier(connection, store, earlier)
        _group_equal(connection)
        queries = [_EXACT, _EXACT_EARLIER]
        if config.near_distance is not None:
            find_pairs(connection, config.near_distance)
            choose_kept(connection)
            queries += [_NEAR, _NEAR_EARLIER]
        connection.execute(f"CREATE TEMP TABLE duplicates AS {' UNION ALL '.join(queries)}")
        found = connection.sql("SELECT * FROM duplicates ORDER BY key, version NULLS FIRST")
        rows = write_rows(found.to_arrow_reader(_BATCH), DUPLICATES, path)
        counted = connection.execute("""
            SELECT count(*) FILTER (version IS NULL AND kind = 'exact'),
                count(*) FILTER (version IS NULL AND kind = 'near'), count(version) FROM duplicates""").fetchall()[0]
    counters = dict(zip(("duplicates", "near_duplicates", "earlier_duplicates"), counted, strict=True))
    return rows, counters


def _load_earlier(connection: duckdb.DuckDBPyConnection, store: Store, earlier: Sequence[PublishedCrawl]) -> None:
    """Create `earlier_rows` (number, key, uid, sha256, phash) and `versions` (number, version) from earlier crawls."""
    names = pa.table({"number": range(len(earlier)), "version": [crawl.version for crawl in earlier]})
    connection.register("version_names", names.cast(pa.schema([("number", pa.int64()), ("version", pa.string())])))
    connection.execute("CREATE TEMP TABLE versions AS SELECT * FROM version_names")
    connection.execute(
        "CREATE TEMP TABLE earlier_rows (number BIGINT, key VARCHAR, uid VARCHAR, sha256 VARCHAR, phash VARCHAR)"
    )
    for number, crawl in enumerate(earlier):
        check_recorded(crawl.tables)
        create_view(connection, store, f"crawl_{number}", [table.name for table in crawl.tables], CRAWL)
        connection.execute(f"""
            INSERT INTO earlier_rows SELECT {number}, key, uid, sha256, phash FROM crawl_{number}
            WHERE status = '{SUCCESS}'""")


def _group_equal(connection: duckdb.DuckDBPyConnection) -> None:
    """Group equal images into `current_images` and `earlier_images`, then equal hashes into `points`.

    `position` orders the points: those of earlier versions first, in order, then those of this version by key.
    """
    connection.execute(f"""
        CREATE TEMP TABLE current_images AS
        SELECT sha256, min(key) AS key, arg_min(uid, key) AS uid, any_value(phash) AS phash
        FROM crawl WHERE status = '{SUCCESS}' GROUP BY sha256""")
    connection.execute("""
        CREATE TEMP TABLE earlier_images AS
        SELECT sha256, min((number, key)) AS origin, arg_min(uid, (number, key)) AS uid, any_value(phash) AS phash
        FROM earlier_rows GROUP BY sha256""")
    connection.execute("DROP TABLE earlier_rows")
    connection.execute("""
        CREATE TEMP TABLE points AS
        SELECT ('0x' || phash)::UBIGINT AS hash, phash, is_current, number, key, uid,
            row_number() OVER (ORDER BY is_current, number, key) - 1 AS position
        FROM (
            SELECT phash, true AS is_current, 0 AS number, min(key) AS key, arg_min(uid, key) AS uid
            FROM current_images WHERE phash IS NOT NULL GROUP BY phash
            UNION ALL
            SELECT phash, false, min(origin)[1], min(origin)[2], arg_min(uid, origin) FROM earlier_images
            WHERE phash IS NOT NULL GROUP BY phash
        )""")


def find_pairs(connection: duckdb.DuckDBPyConnection, distance: int) -> None:
    """Create the table `pairs` (earlier, later, distance) from `points` (hash UBIGINT, position, is_current).

    `later` is a point of this version; `earlier` is any point before it within *distance* bits. Hashes within one
    version are distinct.
    """
    rest = " ".join(f"WHEN {band} THEN {_other_bands(band)}" for band in range(4))
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE banded AS
        SELECT hash, position, is_current, band * 65536 + bands[band + 1] AS bucket, CASE band {rest} END AS rest
        FROM (SELECT *, [{_BANDS}] AS bands FROM points), (SELECT unnest(range(4)) AS band)""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE crowded AS
        SELECT bucket FROM banded GROUP BY bucket HAVING count(*) > {_MAX_BUCKET} AND bool_or(is_current)""")
    connection.execute("CREATE OR REPLACE TEMP VIEW sparse AS SELECT * FROM banded ANTI JOIN crowded USING (bucket)")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE chunked AS
        SELECT hash, position, is_current, bucket,
            (row_number() OVER (PARTITION BY bucket ORDER BY hash, position)) // {_MAX_BUCKET} AS chunk
        FROM (
            SELECT hash, position, is_current, bucket * 16384 + part * 4096 + ((rest >> (12 * part)) & 4095) AS bucket
            FROM banded SEMI JOIN crowded USING (bucket), (SELECT unnest(range(4)) AS part)
        )""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE pairs AS
        {_pairs_query("sparse", "bucket", distance)} UNION {_pairs_query("chunked", "bucket, chunk", distance)}""")
    connection.execute("DROP TABLE chunked; DROP VIEW sparse; DROP TABLE crowded; DROP TABLE banded")


def _other_bands(band: int) -> str:
    high, middle, low = (f"bands[{other + 1}]" for other in range(4) if other != band)
    return f"({high} << 32) + ({middle} << 16) + {low}"


def _pairs_query(table: str, shared: str, distance: int) -> str:
    return f"""
        SELECT a.position AS earlier, b.position AS later, bit_count(xor(a.hash, b.hash)) AS distance
        FROM {table} AS a JOIN {table} AS b USING ({shared})
        WHERE b.is_current AND a.position < b.position AND bit_count(xor(a.hash, b.hash)) <= {distance}"""


def choose_kept(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table `copies` (position, kept, distance) from `pairs` of this version's points.

    In order, each point is kept unless it is near a kept point; then it is a copy of the nearest one. A copy never
    refers to another copy, however long a chain of small changes is. Memory: one byte per point, plus the copies.
    """
    points = connection.execute("SELECT count(*) FROM points").fetchall()[0][0]
    dropped = bytearray(points)
    columns = (array("q"), array("q"), array("q"))
    pairs = connection.sql("""
        SELECT later, earlier, distance FROM pairs JOIN points ON position = earlier WHERE points.is_current
        ORDER BY later, distance, earlier""").to_arrow_reader(_BATCH)
    for batch in pairs:
        for later, earlier, distance in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if not dropped[later] and not dropped[earlier]:
                dropped[later] = 1
                for column, value in zip(columns, (later, earlier, distance), strict=True):
                    column.append(value)
    names = ("position", "kept", "distance")
    found = pa.table({name: pa.array(column, pa.int64()) for name, column in zip(names, columns, strict=True)})
    connection.register("found_copies", found)
    connection.execute("CREATE OR REPLACE TEMP TABLE copies AS SELECT * FROM found_copies")
    connection.unregister("found_copies")
