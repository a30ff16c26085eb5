"""What the sources name: one row per image and AltText, in source order, numbered into shards."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import Config, UrlSource, WarcSource, WatSource, WebdatasetSource
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.schemas import CANDIDATES
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, scan
from vecap_tasks.crawl.sources.link import ArchivedImage, Link, Stats, uid

if TYPE_CHECKING:
    import duckdb

FOOTER = b"vecap"
# `place` puts the rows of a part in order.
LINKS = pa.schema([pa.field("place", pa.int64()), *(field for field in CANDIDATES if field.name != "key")])
# The fields of Held.
ARCHIVED_IMAGES = pa.schema(
    [
        pa.field("place", pa.int64()),
        pa.field("url", pa.string()),
        pa.field("archive", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("digest", pa.string()),
        pa.field("refers_to", pa.string()),
    ]
)
_BATCH = 10_000
_COLLECT_AFTER = 100_000  # objects: reading makes many and no cycles, and Python would look for some after every 700
Place = TypeVar("Place", bound=PurePath)
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


class Source(Protocol):
    """A source of links. Whatever the process, the same part gives the same links."""

    def parts(self) -> list[str]:
        """Return the names of all parts, in order, as the manifest calls them: no paths of this machine.

        Raises VecapError where the source names nothing that exists.
        """

    def read(self, part: str, stats: Stats) -> Iterator[Link | ArchivedImage]:
        """Give every link of *part*, and the images that it holds; *tally* is complete when they are at their end.

        Raises VecapError where the part cannot be read to its end.
        """


def open_source(config: Config, interval: str) -> Source:
    """Return the source of the crawl of *interval*."""
    from vecap_tasks.crawl.sources.site import Site
    from vecap_tasks.crawl.sources.url_list import UrlFiles
    from vecap_tasks.crawl.sources.warc import WarcFiles
    from vecap_tasks.crawl.sources.wat import WatFiles
    from vecap_tasks.crawl.sources.webdataset import WebdatasetFiles

    section = config.crawl.source
    if isinstance(section, WarcSource):
        return WarcFiles(config, section, interval)
    if isinstance(section, WatSource):
        return WatFiles(config, section, interval)
    if isinstance(section, UrlSource):
        return UrlFiles(config, section, interval)
    if isinstance(section, WebdatasetSource):
        return WebdatasetFiles(config, section, interval)
    return Site(config.crawl.fetch, section, interval)


def archived_images_of(links: Place) -> Place:
    """Return where the table HELD lies, if there is one, that belongs to the table *links*."""
    return links.with_suffix(".held.parquet")


def extract(source: Source, part: str, path: Path) -> None:
    """Write the links of *part* to the new file *path*, and what it holds beside it; memory does not follow either.

    Raises VecapError where the part cannot be read to its end.
    """
    stats = Stats()
    items = source.read(part, stats)
    with _few_collections(), ExitStack() as files:
        links = files.enter_context(pq.ParquetWriter(path, LINKS, compression="zstd"))
        held: pq.ParquetWriter | None = None
        place = 0
        while batch := list(islice(items, _BATCH)):
            links.write_batch(_links([item for item in batch if isinstance(item, Link)], place))
            if images := [item for item in batch if isinstance(item, ArchivedImage)]:
                held = held or files.enter_context(
                    pq.ParquetWriter(archived_images_of(path), ARCHIVED_IMAGES, compression="zstd")
                )
                held.write_batch(_archived(images, place))
            place += len(batch)
        body = {"counters": stats.counters, "inputs": [asdict(item) for item in stats.inputs]}
        links.add_key_value_metadata({FOOTER: json.dumps(body, sort_keys=True).encode()})


@contextmanager
def _few_collections() -> Iterator[None]:
    """Let Python look for cycles less often, at a twentieth of the CPU time less."""
    young, *others = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER, *others)
    try:
        yield
    finally:
        gc.set_threshold(young, *others)


def read_stats(metadata: pq.FileMetaData) -> Stats:
    """Return what the table with this footer was made from."""
    body = json.loads(metadata.metadata[FOOTER])
    return Stats(Counter(body["counters"]), [Input(**item) for item in body["inputs"]])


def _links(links: list[Link], first: int) -> pa.RecordBatch:
    columns = zip(*links, strict=True) if links else [()] * len(Link._fields)
    fields: dict[str, Sequence[Any]] = dict(zip(Link._fields, columns, strict=True))
    alttexts, uids, stored = fields.pop("alttext"), fields.pop("uid"), fields.pop("stored")
    named = zip(uids, fields["url"], alttexts, strict=True)
    fields |= {
        "place": range(first, first + len(links)),
        "uid": [given or uid(url, alttext) for given, url, alttext in named],
        "caption": alttexts,
        "stored_in": [one and one.archive for one in stored],
        "stored_at": [one and one.offset for one in stored],
        "stored_bytes": [one and one.length for one in stored],
    }
    return pa.RecordBatch.from_pydict(fields, schema=LINKS)


def _archived(images: list[ArchivedImage], first: int) -> pa.RecordBatch:
    fields = (field.name for field in ARCHIVED_IMAGES if field.name != "place")
    columns = {name: [getattr(image, name) for image in images] for name in fields}
    return pa.RecordBatch.from_pydict({"place": range(first, first + len(images)), **columns}, schema=ARCHIVED_IMAGES)


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
    stats = _total(store, tables)
    with connect(store, threads=2, work=work) as connection:
        _view(connection, store, "links", tables, LINKS)
        beside = [archived_images_of(PurePosixPath(name)) for name in tables]
        there = {place / name for place in {path.parent for path in beside} for name in store.files(str(place))}
        _view(connection, store, "held", [str(path) for path in beside if path in there], ARCHIVED_IMAGES)
        connection.execute(_IMAGES)
        links = connection.execute("SELECT count(*) FROM links").fetchall()[0][0]
        rows = connection.execute("SELECT count(DISTINCT uid) FROM links").fetchall()[0][0]
        stats.counters.update({"candidates": rows, "repeated": links - rows})
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
                    stats.counters["stored"] += stored
                keys = pa.array([f"{name}{row:0{digits}d}" for row in range(table.num_rows)], pa.string())
                columns = [keys, *(table[field.name] for field in CANDIDATES if field.name != "key")]
                writer.write_table(pa.Table.from_arrays(columns, schema=CANDIDATES), row_group_size=shard_size)
            body = {"counters": stats.counters, "inputs": [asdict(item) for item in stats.inputs]}
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


def _total(store: Store, tables: Sequence[str]) -> Stats:
    total = Stats(Counter())
    for name in tables:
        with store.open(name) as stream:
            stats = read_stats(pq.read_metadata(stream))
        total.counters.update(stats.counters)
        total.inputs.extend(stats.inputs)
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
