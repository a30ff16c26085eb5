"""What the sources name: one row per image and AltText, in the order of the sources, numbered into shards.

The table is made once per version, before anything is fetched. It appears whole, and its footer keeps what the
sources were, so that the manifest tells what was read and not what lies there later.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import Config
from vecap_tasks.crawl.optout import opted_out
from vecap_tasks.crawl.page import Page
from vecap_tasks.crawl.parse import Document
from vecap_tasks.crawl.robots import product_token
from vecap_tasks.crawl.sources import open_source
from vecap_tasks.dataset.manifest import Input
from vecap_tasks.dataset.schemas import CANDIDATES

_FOOTER = b"vecap"
_BATCH = 10_000
_RAW = pa.schema([pa.field("position", pa.int64()), *(field for field in CANDIDATES if field.name != "key")])
_SHARD_DIGITS = 5  # img2dataset's
_ROW_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """What the candidates were made from. `counters` are pages, images, and those left out by reason."""

    inputs: tuple[Input, ...]
    counters: dict[str, int]


def uid(url: str, alttext: str | None) -> str:
    """Return the name of an image with its AltText, 32 hex digits. No AltText and an empty one are the same."""
    return hashlib.sha256(f"{url}\0{alttext or ''}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def shard_names(rows: int, shard_size: int) -> list[str]:
    """Return the names of all shards: their numbers with leading zeros, so that text order is number order."""
    count = -(-rows // shard_size)
    digits = max(_SHARD_DIGITS, len(str(count - 1)))
    return [f"{number:0{digits}d}" for number in range(count)]


def write_candidates(config: Config, interval: str, work: Path) -> Path:
    """Read the sources and write the table into the folder *work*; return its path. Memory does not follow its size.

    Row group n holds the rows of shard n. Raises VecapError where a source cannot be read.
    """
    raw, path = work / "raw.parquet", work / "candidates.parquet"
    counters: Counter[str] = Counter()
    source = open_source(config, interval)
    product = product_token(config.crawl.fetch.user_agent) if config.crawl.fetch.robots else None
    with pq.ParquetWriter(raw, _RAW) as writer:
        for batch in _batches(_rows(source.pages(), product, counters)):
            writer.write_batch(batch)
    counters.update({f"page_skipped.{reason}": count for reason, count in source.skipped.items()})
    size = config.crawl.shard_size
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"SET temp_directory = '{work / 'duckdb'}'; SET memory_limit = '1GB'; SET threads = 2")
        connection.execute(f"""
            CREATE VIEW raw AS SELECT * FROM read_parquet('{raw}');
            CREATE VIEW first AS SELECT min(position) AS position FROM raw GROUP BY uid""")  # noqa: S608 - our path
        rows = connection.execute("SELECT count(*) FROM first").fetchall()[0][0]
        counters.update({"candidates": rows, "repeated": counters["images"] - rows - _left_out(counters)})
        ordered = connection.sql("SELECT raw.* FROM raw SEMI JOIN first USING (position) ORDER BY position")
        names = shard_names(rows, size)
        digits = max(_ROW_DIGITS, len(str(size - 1)))
        with pq.ParquetWriter(path, CANDIDATES, compression="zstd", store_schema=False) as writer:
            for name, table in zip(names, _cut(ordered.to_arrow_reader(_BATCH), size), strict=True):
                keys = pa.array([f"{name}{row:0{digits}d}" for row in range(table.num_rows)], pa.string())
                columns = [keys, *(table[field.name] for field in CANDIDATES if field.name != "key")]
                writer.write_table(pa.Table.from_arrays(columns, schema=CANDIDATES), row_group_size=size)
            origin = Origin(tuple(source.inputs()), dict(counters))
            writer.add_key_value_metadata({_FOOTER: json.dumps(asdict(origin), sort_keys=True).encode()})
    return path


def read_origin(metadata: pq.FileMetaData) -> Origin:
    """Return what the table with this footer was made from."""
    body = json.loads(metadata.metadata[_FOOTER])
    return Origin(tuple(Input(**item) for item in body["inputs"]), body["counters"])


def _left_out(counters: Counter[str]) -> int:
    return sum(count for name, count in counters.items() if name.startswith("skipped."))


def _rows(pages: Iterator[Page], product: str | None, counters: Counter[str]) -> Iterator[list[object]]:
    """Give the values of _RAW for every image that has an address."""
    position = 0
    for page in pages:
        found = Document(page).found()
        counters["pages"] += 1
        counters["images"] += len(found.images) + found.skipped.total()
        counters.update({f"skipped.{reason}": count for reason, count in found.skipped.items()})
        if product is not None and opted_out((*page.robots_tags, *found.robots), product):
            counters["skipped.page_opt_out"] += len(found.images)
            continue
        for image in found.images:
            name = uid(image.url, image.alttext)
            yield [
                position, name, image.url, image.alttext, page.url, found.title, image.figcaption, image.language,
                page.source,
            ]  # fmt: skip
            position += 1


def _batches(rows: Iterator[list[object]]) -> Iterator[pa.RecordBatch]:
    held: list[list[object]] = []
    for row in rows:
        held.append(row)
        if len(held) == _BATCH:
            yield _batch(held)
            held = []
    if held:
        yield _batch(held)


def _batch(rows: list[list[object]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _RAW, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=_RAW)


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
