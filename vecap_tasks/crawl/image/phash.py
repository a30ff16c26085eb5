"""Perceptual hashes: 64 bits that survive scaling and recompression, and the pairs that differ in a few bits."""

from __future__ import annotations

from array import array

import cv2
import duckdb
import numpy as np
import pyarrow as pa
from PIL import Image

_SIDE = 32
_LOW = 8
_SCALE = 1 << 12
# The first rows of the DCT-II of 32 points in whole numbers: sums of them are exact in float64, in whatever order they
# are added, so that a coefficient that is zero by symmetry has no rounding error that would decide its bit.
_COSINES = np.rint(
    _SCALE * np.cos(np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5)) * np.sqrt(2 / _SIDE)
)
# Of the median of all coefficients, in grey levels. Where half of them are no larger than what JPEG and rounding
# leave on an even ground, half of the bits say nothing.
_NOISE = 1.5


def phash(pixels: np.ndarray) -> str | None:
    """Return the hash of *pixels* (RGB, uint8 [height, width, 3]) as 16 hex digits, most significant first; None for a
    picture too flat."""
    grey = Image.fromarray(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)))
    small = grey.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, reducing_gap=2)
    low = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    if _median(np.abs(low)) < _NOISE * _SCALE * _SCALE:
        return None
    return np.packbits(low > _median(low)).tobytes().hex()


def _median(values: np.ndarray) -> float:
    """Return what np.median does of 64 values; for so few most of its time is preparation."""
    ordered = np.sort(values, axis=None)
    return float(ordered[31] + ordered[32]) / 2


# ruff: noqa: S608 - the queries are put together from this package's own numbers


MOST = 3  # bits that may differ, for the bands above
_CROWD = 512  # hashes in a bucket, above which it is cut
_BANDS = ", ".join(f"(hash >> {16 * band}) & 65535" for band in range(4))
_BATCH = 100_000


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
