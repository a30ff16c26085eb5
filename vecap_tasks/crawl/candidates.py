"""What the sources name: one row per image and AltText, in the order of the sources, numbered into shards.

The table is made once per version, before anything is fetched, from the links of the source's parts. It appears
whole, and its footer keeps what the sources were, so that the manifest tells what was read and not what lies there
later.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.crawl.extract import FOOTER, HELD, LINKS, held_beside, read_tally
from vecap_tasks.crawl.links import Tally
from vecap_tasks.dataset.query import connect, scan
from vecap_tasks.dataset.schemas import CANDIDATES
from vecap_tasks.dataset.store import Store

_BATCH = 10_000
_SHARD_DIGITS = 5  # img2dataset's
_ROW_DIGITS = 4

# Where each address's image lies: in the first record of its own, else in the record that a revisit says it is the
# same as, by the digest of the payload or else by address.
_IMAGES = """
    CREATE TABLE images AS
    WITH records AS (SELECT * FROM held WHERE "offset" IS NOT NULL),
    revisits AS (SELECT * FROM held WHERE "offset" IS NULL),
    by_digest AS (SELECT DISTINCT ON (digest) * FROM records WHERE digest IS NOT NULL ORDER BY digest, position),
    by_url AS (SELECT DISTINCT ON (url) * FROM records ORDER BY url, position),
    found AS (
        SELECT url, archive, "offset", length, 1 AS choice, position FROM by_url
        UNION ALL
        SELECT revisits.url, same.archive, same."offset", same.length, 2, revisits.position
        FROM revisits JOIN by_digest AS same USING (digest)
        UNION ALL
        SELECT revisits.url, same.archive, same."offset", same.length, 3, revisits.position
        FROM revisits JOIN by_url AS same ON revisits.refers_to = same.url
    )
    SELECT DISTINCT ON (url) url, archive, "offset", length FROM found ORDER BY url, choice, position
"""


def shard_names(rows: int, shard_size: int) -> list[str]:
    """Return the names of all shards: their numbers with leading zeros, so that text order is number order."""
    count = -(-rows // shard_size)
    digits = max(_SHARD_DIGITS, len(str(count - 1)))
    return [f"{number:0{digits}d}" for number in range(count)]


def write_candidates(store: Store, tables: Sequence[str], shard_size: int, work: Path) -> Path:
    """Write the table of all links of *tables* (in the store, in order), each uid once, into the folder *work*.

    An image that a part holds is taken from there, whichever part names it. Row group n holds the rows of shard n.
    Memory does not follow the number of rows.
    """
    path = work / "candidates.parquet"
    tally = _total(store, tables)
    with connect(store, threads=2, work=work) as connection:
        _view(connection, store, "links", tables, LINKS)
        beside = [held_beside(PurePosixPath(name)) for name in tables]
        there = {place / name for place in {path.parent for path in beside} for name in store.files(str(place))}
        _view(connection, store, "held", [str(path) for path in beside if path in there], HELD)
        connection.execute(_IMAGES)
        links = connection.execute("SELECT count(*) FROM links").fetchall()[0][0]
        rows = connection.execute("SELECT count(DISTINCT uid) FROM links").fetchall()[0][0]
        tally.counters.update({"candidates": rows, "repeated": links - rows})
        ordered = connection.sql("""
            SELECT links.* REPLACE (
                coalesce(stored_in, images.archive) AS stored_in,
                coalesce(stored_at, images.offset) AS stored_at,
                coalesce(stored_bytes, images.length) AS stored_bytes)
            FROM links SEMI JOIN (SELECT min(position) AS position FROM links GROUP BY uid) USING (position)
            LEFT JOIN images USING (url) ORDER BY links.position""")
        names = shard_names(rows, shard_size)
        digits = max(_ROW_DIGITS, len(str(shard_size - 1)))
        with pq.ParquetWriter(path, CANDIDATES, compression="zstd", store_schema=False) as writer:
            for name, table in zip(names, _cut(ordered.to_arrow_reader(_BATCH), shard_size), strict=True):
                if stored := table.num_rows - table["stored_in"].null_count:
                    tally.counters["stored"] += stored
                keys = pa.array([f"{name}{row:0{digits}d}" for row in range(table.num_rows)], pa.string())
                columns = [keys, *(table[field.name] for field in CANDIDATES if field.name != "key")]
                writer.write_table(pa.Table.from_arrays(columns, schema=CANDIDATES), row_group_size=shard_size)
            body = {"counters": tally.counters, "inputs": [asdict(item) for item in tally.inputs]}
            writer.add_key_value_metadata({FOOTER: json.dumps(body, sort_keys=True).encode()})
    return path


def _view(
    connection: duckdb.DuckDBPyConnection, store: Store, view: str, tables: Sequence[str], schema: pa.Schema
) -> None:
    """Make *view*: all rows of *tables*, `position` counting them through the tables in their order."""
    if not tables:
        connection.register(view, schema.append(pa.field("position", pa.int64())).empty_table())
        return
    order = pa.table({"filename": [store.query_path(name) for name in tables], "part": range(len(tables))})
    connection.register(f"{view}_parts", order)
    connection.execute(f"CREATE TABLE {view}_order AS SELECT * FROM {view}_parts")  # noqa: S608
    files = scan([store.query_path(name) for name in tables])
    connection.execute(f"""
        CREATE VIEW {view} AS SELECT files.*, part::BIGINT * 1099511627776 + place AS position
        FROM {files} AS files JOIN {view}_order USING (filename)""")  # noqa: S608


def _total(store: Store, tables: Sequence[str]) -> Tally:
    total = Tally(Counter())
    for name in tables:
        with store.open(name) as stream:
            tally = read_tally(pq.read_metadata(stream))
        total.counters.update(tally.counters)
        total.inputs.extend(tally.inputs)
    return total


def _cut(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Give the rows again in tables of *size*, the last one with the rest."""
    waiting: list[pa.Table] = []
    held = 0
    for batch in batches:
        waiting.append(pa.Table.from_batches([batch]))
        held += batch.num_rows
        while held >= size:
            table = pa.concat_tables(waiting).combine_chunks()
            yield table.slice(0, size)
            waiting, held = [table.slice(size)], held - size
    if held:
        yield pa.concat_tables(waiting).combine_chunks()
