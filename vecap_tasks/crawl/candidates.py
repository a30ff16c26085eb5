"""Candidates: one row per image and AltText, in source order, numbered into shards."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import Config, FolderSource, HfSource, UrlSource, WarcSource, WatSource, WebdatasetSource
from vecap_tasks.core.manifest import Input
from vecap_tasks.core.schemas import CANDIDATES, KEPT, with_kept
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, scan, write_rows
from vecap_tasks.crawl.sources.link import ArchivedImage, Link, Stats, conceal_link, shorten, uid
from vecap_tasks.redaction import conceal

if TYPE_CHECKING:
    import duckdb

FOOTER_KEY = b"vecap"
# `place` is the position of the row within its part; `alternatives` are other URLs of the image, the best first.
LINKS = pa.schema(
    [
        pa.field("place", pa.int64()),
        *(field for field in CANDIDATES if field.name != "key"),
        pa.field("alternatives", pa.list_(pa.string())),
        KEPT.with_nullable(True),
    ]
)
# The fields of ArchivedImage.
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
_BATCH_CHARS = 16 << 20  # of the texts of a batch
_GC_THRESHOLD = 100_000  # objects; reading creates many objects and no cycles, and Python's default is 700
PathType = TypeVar("PathType", bound=PurePath)
_SHARD_DIGITS = 5  # img2dataset's
_ROW_DIGITS = 4
# Location of each URL's image: the first record of the URL itself, or the record that a revisit refers to, by payload
# digest or by URL.
_IMAGES_SQL = """
    CREATE TABLE images AS
    WITH records AS (SELECT * FROM archived WHERE "offset" IS NOT NULL),
    revisits AS (SELECT * FROM archived WHERE "offset" IS NULL),
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
# Links whose image is not archived, but whose alternative is, get the URL and uid of the first such alternative.
_RESOLVED_SQL = """
    CREATE TABLE replacements AS
    WITH others AS (
        SELECT position, unnest(alternatives) AS url, unnest(range(len(alternatives))) AS choice
        FROM links ANTI JOIN images USING (url) WHERE len(alternatives) > 0
    )
    SELECT position, arg_min(url, choice) AS other FROM others SEMI JOIN images USING (url) GROUP BY position;
    CREATE VIEW resolved AS
    SELECT links.* EXCLUDE (url, uid, alternatives), coalesce(other, url) AS url,
        CASE WHEN other IS NULL THEN uid ELSE left(sha256(other || chr(0) || coalesce(caption, '')), 32) END AS uid
    FROM links LEFT JOIN replacements USING (position)
"""


class Source(Protocol):
    """A source of links. A part yields the same links in every process."""

    def parts(self) -> list[str]:
        """Return the names of all parts, in order, as written in the manifest, without machine-specific paths.

        Raises VecapError if the source has no parts.
        """

    def read(self, part: str, stats: Stats) -> Iterator[Link | ArchivedImage]:
        """Yield the links and archived images of *part*; *stats* is complete when the iterator is exhausted.

        Raises VecapError if the part cannot be read completely.
        """


def open_source(config: Config, interval: str) -> Source:
    """Return the source that the crawl of *interval* reads."""
    from vecap_tasks.crawl.sources.folder import FolderFiles
    from vecap_tasks.crawl.sources.hf import HfDataset
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
    if isinstance(section, FolderSource):
        return FolderFiles(config, section, interval)
    if isinstance(section, HfSource):
        return HfDataset(config, section, interval)
    return Site(config.crawl.fetch, config.crawl.limits, section, interval)


def archived_images_path(links: PathType) -> PathType:
    """Return the path of the ARCHIVED_IMAGES table for the table *links*. The file may not exist."""
    return links.with_suffix(".held.parquet")


def extract(source: Source, part: str, path: Path) -> None:
    """Write the links of *part* to *path* and its archived images to a second table, in bounded memory.

    Raises VecapError if the part cannot be read completely.
    """
    stats = Stats()
    items = source.read(part, stats)
    with _relaxed_gc(), ExitStack() as files:
        links = files.enter_context(pq.ParquetWriter(path, LINKS, compression="zstd"))
        archived: pq.ParquetWriter | None = None
        place = 0
        for batch in _batches(items, stats):
            links.write_batch(_links_batch([item for item in batch if isinstance(item, Link)], place))
            if images := [item for item in batch if isinstance(item, ArchivedImage)]:
                archived = archived or files.enter_context(
                    pq.ParquetWriter(archived_images_path(path), ARCHIVED_IMAGES, compression="zstd")
                )
                archived.write_batch(_archived_batch(images, place))
            place += len(batch)
        links.add_key_value_metadata({FOOTER_KEY: json.dumps(format_stats(stats), sort_keys=True).encode()})


def _batches(items: Iterator[Link | ArchivedImage], stats: Stats) -> Iterator[list[Link | ArchivedImage]]:
    """Yield the items, with texts of bounded length, in batches of bounded size."""
    batch: list[Link | ArchivedImage] = []
    chars = 0
    for item in items:
        if isinstance(item, Link):
            item = shorten(conceal_link(item), stats)
            chars += len(item.url) + len(item.alttext or "") + len(item.page_title or "") + len(item.figcaption or "")
            chars += len(item.scores or "") + len(item.kept or "") + sum(map(len, item.alternatives))
        elif item.url != (url := conceal(item.url)):
            item = replace(item, url=url)
        batch.append(item)
        if len(batch) == _BATCH or chars > _BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


@contextmanager
def _relaxed_gc() -> Iterator[None]:
    """Run garbage collection less often, which saves 5 % of CPU time."""
    threshold = gc.get_threshold()
    gc.set_threshold(_GC_THRESHOLD, *threshold[1:])
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


def read_stats(metadata: pq.FileMetaData) -> Stats:
    """Return the stats in the footer of a links table, or of the candidates of an earlier release."""
    return parse_stats(json.loads(metadata.metadata[FOOTER_KEY]))


def format_stats(stats: Stats) -> dict[str, Any]:
    """Return *stats* as JSON values."""
    return {"counters": stats.counters, "inputs": [asdict(item) for item in stats.inputs]}


def parse_stats(body: Mapping[str, Any]) -> Stats:
    """Return the stats in the JSON values *body*."""
    return Stats(Counter(body["counters"]), [Input(**item) for item in body["inputs"]])


def _links_batch(links: list[Link], first: int) -> pa.RecordBatch:
    columns = zip(*links, strict=True) if links else [()] * len(Link._fields)
    fields: dict[str, Sequence[Any]] = dict(zip(Link._fields, columns, strict=True))
    alttexts, uids, stored = fields.pop("alttext"), fields.pop("uid"), fields.pop("stored")
    named = zip(uids, fields["url"], alttexts, strict=True)
    fields |= {
        "place": range(first, first + len(links)),
        "uid": [source_uid or uid(url, alttext) for source_uid, url, alttext in named],
        "caption": alttexts,
        "stored_in": [location and location.archive for location in stored],
        "stored_at": [location and location.offset for location in stored],
        "stored_bytes": [location and location.length for location in stored],
    }
    return pa.RecordBatch.from_pydict(fields, schema=LINKS)


def _archived_batch(images: list[ArchivedImage], first: int) -> pa.RecordBatch:
    fields = (field.name for field in ARCHIVED_IMAGES if field.name != "place")
    columns = {name: [getattr(image, name) for image in images] for name in fields}
    return pa.RecordBatch.from_pydict({"place": range(first, first + len(images)), **columns}, schema=ARCHIVED_IMAGES)


def shard_names(rows: int, shard_size: int) -> list[str]:
    """Return the names of all shards: zero-padded numbers, so that they sort as text."""
    count = -(-rows // shard_size)
    digits = max(_SHARD_DIGITS, len(str(count - 1)))
    return [f"{number:0{digits}d}" for number in range(count)]


def write_candidates(
    store: Store,
    links: Sequence[str],
    archived: Sequence[str],
    shard_size: int,
    work: Path,
    *,
    kept: bool,
    stats: Stats,
) -> Iterator[Path]:
    """Write the candidates of *links*, local links tables in order, to `{shard}.parquet` in *work*; yield each path.

    Each uid appears once. If a table of *archived* images (local, in order) holds an image, its row points to the
    archive; of several URLs of an image, the best that is archived is used. *kept* adds the column `kept`. *stats* is
    complete at the end. The caller moves or deletes the files. Memory is independent of the number of rows.
    """
    schema = with_kept(CANDIDATES, kept)
    _merge_stats(links, stats)
    with connect(store, threads=2, work=work) as connection:
        _create_view(connection, "links", links, LINKS)
        _create_view(connection, "archived", archived, ARCHIVED_IMAGES)
        connection.execute(_IMAGES_SQL)
        connection.execute(_RESOLVED_SQL)
        total = connection.execute("SELECT count(*) FROM links").fetchall()[0][0]
        rows = connection.execute("SELECT count(DISTINCT uid) FROM resolved").fetchall()[0][0]
        stats.counters.update({"candidates": rows, "repeated": total - rows})
        ordered = connection.sql("""
            SELECT resolved.* REPLACE (
                coalesce(stored_in, images.archive) AS stored_in,
                coalesce(stored_at, images.offset) AS stored_at,
                coalesce(stored_bytes, images.length) AS stored_bytes)
            FROM resolved SEMI JOIN (SELECT min(position) AS position FROM resolved GROUP BY uid) USING (position)
            LEFT JOIN images USING (url) ORDER BY resolved.position""")
        names = shard_names(rows, shard_size)
        digits = max(_ROW_DIGITS, len(str(shard_size - 1)))
        for name, table in zip(names, _rechunk(ordered.to_arrow_reader(_BATCH), shard_size), strict=True):
            if stored := table.num_rows - table["stored_in"].null_count:
                stats.counters["stored"] += stored
            keys = pa.array([f"{name}{row:0{digits}d}" for row in range(table.num_rows)], pa.string())
            columns = [keys, *(table[name] for name in schema.names if name != "key")]
            write_rows(pa.Table.from_arrays(columns, schema=schema).to_batches(), schema, work / f"{name}.parquet")
            yield work / f"{name}.parquet"


def _create_view(connection: duckdb.DuckDBPyConnection, view: str, paths: Sequence[str], schema: pa.Schema) -> None:
    """Create *view*: all rows of the tables *paths*; `position` orders them across tables."""
    if not paths:
        connection.register(view, schema.append(pa.field("position", pa.int64())).empty_table())
        return
    order = pa.table({"filename": list(paths), "part": range(len(paths))})
    connection.register(f"{view}_parts", order)
    connection.execute(f"CREATE TABLE {view}_order AS SELECT * FROM {view}_parts")  # noqa: S608
    connection.execute(f"""
        CREATE VIEW {view} AS SELECT files.*, part::BIGINT * 1099511627776 + place AS position
        FROM {scan(paths)} AS files JOIN {view}_order USING (filename)""")  # noqa: S608


def _merge_stats(links: Sequence[str], total: Stats) -> None:
    for path in links:
        stats = read_stats(pq.read_metadata(path))
        total.counters.update(stats.counters)
        total.inputs.extend(stats.inputs)


def _rechunk(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Yield the rows in tables of *size* rows; the last may be smaller."""
    pending: list[pa.Table] = []
    rows = 0
    for batch in batches:
        pending.append(pa.Table.from_batches([batch]))
        rows += batch.num_rows
        while rows >= size:
            table = pa.concat_tables(pending).combine_chunks()
            yield table.slice(0, size)
            pending, rows = [table.slice(size)], rows - size
    if rows:
        yield pa.concat_tables(pending).combine_chunks()
