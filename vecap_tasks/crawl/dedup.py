"""Images that are there already: the same bytes, or nearly the same picture, in this version or an earlier one.

Of one picture the first row by key is kept, and the others are recorded with the row that is kept, why, and of which
version it is. What becomes of them is the quality stage's to say. All is done by DuckDB, which keeps on disk what
does not fit into memory.
"""

# ruff: noqa: S608 - the queries are put together from this package's own numbers and names

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
from vecap_tasks.core.version import Version, list_versions, published
from vecap_tasks.crawl.shard_images import SUCCESS

if TYPE_CHECKING:
    import duckdb

_BATCH = 100_000
MAX_GROUP = 3  # bits that may differ, for the bands above
_CROWD = 512  # hashes in a bucket, above which it is cut
_BANDS = ", ".join(f"(hash >> {16 * band}) & 65535" for band in range(4))
_EXACT = f"""
    SELECT crawl.key, crawl.uid, firsts.uid AS duplicate_of, 'exact' AS kind, 0 AS distance, NULL::VARCHAR AS version
    FROM crawl JOIN firsts USING (sha256) WHERE status = '{SUCCESS}' AND crawl.key <> firsts.key"""
_EXACT_EARLIER = f"""
    SELECT crawl.key, crawl.uid, olds.uid, 'exact', 0, version
    FROM crawl JOIN olds USING (sha256) JOIN versions ON number = spot[1] WHERE status = '{SUCCESS}'"""
# Of each picture alone the first row: the others are its exact duplicates.
_NEAR = """
    SELECT firsts.key, firsts.uid, coalesce(kept.uid, points.uid), 'near', coalesce(copies.distance, 0), NULL
    FROM firsts JOIN points ON points.phash = firsts.phash AND points.own
    LEFT JOIN copies ON copies.place = points.place LEFT JOIN points AS kept ON kept.place = copies.kept
    WHERE copies.place IS NOT NULL OR firsts.key <> points.key"""
_NEAR_EARLIER = f"""
    SELECT crawl.key, crawl.uid, old.uid, 'near', nearest.distance, version
    FROM (
        SELECT later, min((distance, earlier)) AS nearest, nearest[1] AS distance, nearest[2] AS earlier
        FROM pairs JOIN points ON place = earlier WHERE NOT own GROUP BY later
    ) AS nearest
    JOIN points AS new ON new.place = later JOIN points AS old ON old.place = nearest.earlier
    JOIN versions ON versions.number = old.number JOIN crawl ON crawl.phash = new.phash
    ANTI JOIN olds ON olds.sha256 = crawl.sha256 WHERE status = '{SUCCESS}'"""


@dataclass(frozen=True, slots=True)
class PublishedCrawl:
    """A published crawl of another interval: the version's name, its manifest's digest, and its tables."""

    version: str
    digest: str
    tables: tuple[str, ...]


def published_crawls(store: Store, version: Version) -> list[PublishedCrawl]:
    """Return the crawls of the other intervals that are published now, in order; revisions may share one."""
    found: dict[str, PublishedCrawl] = {}
    for other in list_versions(store, version.dataset):
        if other.interval == version.interval or published(store, other) is None:
            continue
        manifest = read_manifest(store, f"{other.folder}/crawl")
        if manifest is not None:
            names = manifest.files_ending(".parquet")
            tables = tuple(name for name in names if name.rsplit("/", 1)[1].removesuffix(".parquet").isdigit())
            found.setdefault(manifest.digest, PublishedCrawl(other.name, manifest.digest, tables))
    return list(found.values())


def write_duplicates(
    store: Store,
    tables: Sequence[str],
    earlier: Sequence[PublishedCrawl],
    config: DuplicatesConfig,
    work: Path,
    path: Path,
) -> tuple[int, dict[str, int]]:
    """Write DUPLICATES for the shards' *tables* (names in the store) to *path*; return the rows, and their counts."""
    with connect(store, work=work) as connection:
        connection.execute("SET preserve_insertion_order = false")
        create_view(connection, store, "crawl", tables, CRAWL)
        _view_earlier(connection, store, earlier)
        _collapse(connection)
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


def _view_earlier(connection: duckdb.DuckDBPyConnection, store: Store, earlier: Sequence[PublishedCrawl]) -> None:
    """Make the table `before` (number, key, uid, sha256, phash) of earlier images, and `versions` (number, version)."""
    names = pa.table({"number": range(len(earlier)), "version": [one.version for one in earlier]})
    connection.register("given_versions", names.cast(pa.schema([("number", pa.int64()), ("version", pa.string())])))
    connection.execute("CREATE TEMP TABLE versions AS SELECT * FROM given_versions")
    connection.execute(
        "CREATE TEMP TABLE before (number BIGINT, key VARCHAR, uid VARCHAR, sha256 VARCHAR, phash VARCHAR)"
    )
    for number, one in enumerate(earlier):
        create_view(connection, store, f"crawl_{number}", one.tables, CRAWL)
        connection.execute(f"""
            INSERT INTO before SELECT {number}, key, uid, sha256, phash FROM crawl_{number}
            WHERE status = '{SUCCESS}'""")


def _collapse(connection: duckdb.DuckDBPyConnection) -> None:
    """Put equal images together, then equal hashes: `firsts` and `olds` by their bytes, `points` by their hash.

    A point has a place in the order of what is kept: earlier versions' in their order, then the version's own by key.
    """
    connection.execute(f"""
        CREATE TEMP TABLE firsts AS
        SELECT sha256, min(key) AS key, arg_min(uid, key) AS uid, any_value(phash) AS phash
        FROM crawl WHERE status = '{SUCCESS}' GROUP BY sha256""")
    connection.execute("""
        CREATE TEMP TABLE olds AS
        SELECT sha256, min((number, key)) AS spot, arg_min(uid, (number, key)) AS uid, any_value(phash) AS phash
        FROM before GROUP BY sha256""")
    connection.execute("DROP TABLE before")
    connection.execute("""
        CREATE TEMP TABLE points AS
        SELECT ('0x' || phash)::UBIGINT AS hash, phash, own, number, key, uid,
            row_number() OVER (ORDER BY own, number, key) - 1 AS place
        FROM (
            SELECT phash, true AS own, 0 AS number, min(key) AS key, arg_min(uid, key) AS uid
            FROM firsts WHERE phash IS NOT NULL GROUP BY phash
            UNION ALL
            SELECT phash, false, min(spot)[1], min(spot)[2], arg_min(uid, spot) FROM olds
            WHERE phash IS NOT NULL GROUP BY phash
        )""")


def find_pairs(connection: duckdb.DuckDBPyConnection, distance: int) -> None:
    """Make the table `pairs` (earlier, later, distance) of the table `points` (hash UBIGINT, place, own).

    Each point appears as `later` with those before it that are no more than *distance* bits apart, if it is the
    version's own. Hashes of a place each: equal ones of the same version were put together before.
    """
    rest = " ".join(f"WHEN {band} THEN {_others(band)}" for band in range(4))
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE banded AS
        SELECT hash, place, own, band * 65536 + bands[band + 1] AS bucket, CASE band {rest} END AS rest
        FROM (SELECT *, [{_BANDS}] AS bands FROM points), (SELECT unnest(range(4)) AS band)""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE crowded AS
        SELECT bucket FROM banded GROUP BY bucket HAVING count(*) > {_CROWD} AND bool_or(own)""")
    connection.execute("CREATE OR REPLACE TEMP VIEW sparse AS SELECT * FROM banded ANTI JOIN crowded USING (bucket)")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE chunked AS
        SELECT hash, place, own, bucket,
            (row_number() OVER (PARTITION BY bucket ORDER BY hash, place)) // {_CROWD} AS chunk
        FROM (
            SELECT hash, place, own, bucket * 16384 + part * 4096 + ((rest >> (12 * part)) & 4095) AS bucket
            FROM banded SEMI JOIN crowded USING (bucket), (SELECT unnest(range(4)) AS part)
        )""")
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE pairs AS
        {_compared("sparse", "bucket", distance)} UNION {_compared("chunked", "bucket, chunk", distance)}""")
    connection.execute("DROP TABLE chunked; DROP VIEW sparse; DROP TABLE crowded; DROP TABLE banded")


def _others(band: int) -> str:
    high, middle, low = (f"bands[{other + 1}]" for other in range(4) if other != band)
    return f"({high} << 32) + ({middle} << 16) + {low}"


def _compared(table: str, shared: str, distance: int) -> str:
    return f"""
        SELECT a.place AS earlier, b.place AS later, bit_count(xor(a.hash, b.hash)) AS distance
        FROM {table} AS a JOIN {table} AS b USING ({shared})
        WHERE b.own AND a.place < b.place AND bit_count(xor(a.hash, b.hash)) <= {distance}"""


def choose_kept(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `copies` (place, kept, distance) from `pairs` of the version's own points.

    In the order of their places each point is kept, unless it is near one that is kept: then it is a copy of the
    nearest of these. So no copy is one only of another copy, however long a chain of small changes is. Memory: a byte
    for each point, and what is said of the copies.
    """
    points = connection.execute("SELECT count(*) FROM points").fetchall()[0][0]
    dropped = bytearray(points)
    columns = (array("q"), array("q"), array("q"))
    pairs = connection.sql("""
        SELECT later, earlier, distance FROM pairs JOIN points ON place = earlier WHERE points.own
        ORDER BY later, distance, earlier""").to_arrow_reader(_BATCH)
    for batch in pairs:
        for later, earlier, distance in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if not dropped[later] and not dropped[earlier]:
                dropped[later] = 1
                for column, value in zip(columns, (later, earlier, distance), strict=True):
                    column.append(value)
    names = ("place", "kept", "distance")
    found = pa.table({name: pa.array(column, pa.int64()) for name, column in zip(names, columns, strict=True)})
    connection.register("found_copies", found)
    connection.execute("CREATE OR REPLACE TEMP TABLE copies AS SELECT * FROM found_copies")
    connection.unregister("found_copies")
