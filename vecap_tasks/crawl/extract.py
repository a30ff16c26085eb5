"""Reads one part of a source (a file, or a whole site) into a table of the links that it names.

Parts are read side by side. Each table appears whole, and its footer keeps what was read and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.crawl.links import Link, Tally, uid
from vecap_tasks.crawl.sources import Source
from vecap_tasks.dataset.manifest import Input
from vecap_tasks.dataset.schemas import CANDIDATES

FOOTER = b"vecap"
# `place` is the row's number within the part.
LINKS = pa.schema([pa.field("place", pa.int64()), *(field for field in CANDIDATES if field.name != "key")])
_BATCH = 10_000


def extract(source: Source, part: str, path: Path) -> None:
    """Write the links of *part* to the new file *path*; memory does not follow their number.

    Raises VecapError where the part cannot be read to its end.
    """
    tally = Tally()
    links = source.read(part, tally)
    with pq.ParquetWriter(path, LINKS, compression="zstd") as writer:
        place = 0
        while batch := list(islice(links, _BATCH)):
            writer.write_batch(_batch(batch, place))
            place += len(batch)
        body = {"counters": tally.counters, "inputs": [asdict(item) for item in tally.inputs]}
        writer.add_key_value_metadata({FOOTER: json.dumps(body, sort_keys=True).encode()})


def read_tally(metadata: pq.FileMetaData) -> Tally:
    """Return what the table with this footer was made from."""
    body = json.loads(metadata.metadata[FOOTER])
    return Tally(Counter(body["counters"]), [Input(**item) for item in body["inputs"]])


def _batch(links: list[Link], first: int) -> pa.RecordBatch:
    columns = zip(*(_values(place, link) for place, link in enumerate(links, first)), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, LINKS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=LINKS)


def _values(place: int, link: Link) -> Iterator[object]:
    """Give the values of one row in the order of LINKS."""
    stored = link.stored
    yield place
    yield link.uid or uid(link.url, link.alttext)
    yield from (link.url, link.alttext, link.page_url, link.page_title, link.figcaption, link.language, link.source)
    yield link.scores
    yield from (stored.archive, stored.offset, stored.length) if stored else (None, None, None)
