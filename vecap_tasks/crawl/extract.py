"""Reads one part of a source (a file, or a whole site) into a table of the links that it names.

Parts are read side by side. Each table appears whole, and its footer keeps what was read and counted. A part that
holds images itself gets a second table, of where they lie.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path, PurePath
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.crawl.links import Held, Link, Tally, uid
from vecap_tasks.crawl.sources import Source
from vecap_tasks.dataset.manifest import Input
from vecap_tasks.dataset.schemas import CANDIDATES

FOOTER = b"vecap"
# `place` puts the rows of a part in order.
LINKS = pa.schema([pa.field("place", pa.int64()), *(field for field in CANDIDATES if field.name != "key")])
# The fields of Held.
HELD = pa.schema(
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

Place = TypeVar("Place", bound=PurePath)


def held_beside(links: Place) -> Place:
    """Return where the table HELD lies, if there is one, that belongs to the table *links*."""
    return links.with_suffix(".held.parquet")


def extract(source: Source, part: str, path: Path) -> None:
    """Write the links of *part* to the new file *path*, and what it holds beside it; memory does not follow either.

    Raises VecapError where the part cannot be read to its end.
    """
    tally = Tally()
    items = source.read(part, tally)
    with ExitStack() as files:
        links = files.enter_context(pq.ParquetWriter(path, LINKS, compression="zstd"))
        held: pq.ParquetWriter | None = None
        place = 0
        while batch := list(islice(items, _BATCH)):
            links.write_batch(_links([item for item in batch if isinstance(item, Link)], place))
            if images := [item for item in batch if isinstance(item, Held)]:
                held = held or files.enter_context(pq.ParquetWriter(held_beside(path), HELD, compression="zstd"))
                held.write_batch(_held(images, place))
            place += len(batch)
        body = {"counters": tally.counters, "inputs": [asdict(item) for item in tally.inputs]}
        links.add_key_value_metadata({FOOTER: json.dumps(body, sort_keys=True).encode()})


def read_tally(metadata: pq.FileMetaData) -> Tally:
    """Return what the table with this footer was made from."""
    body = json.loads(metadata.metadata[FOOTER])
    return Tally(Counter(body["counters"]), [Input(**item) for item in body["inputs"]])


def _links(links: list[Link], first: int) -> pa.RecordBatch:
    columns = {
        "place": range(first, first + len(links)),
        "uid": [link.uid or uid(link.url, link.alttext) for link in links],
        "url": [link.url for link in links],
        "caption": [link.alttext for link in links],
        "page_url": [link.page_url for link in links],
        "page_title": [link.page_title for link in links],
        "figcaption": [link.figcaption for link in links],
        "language": [link.language for link in links],
        "source": [link.source for link in links],
        "scores": [link.scores for link in links],
        "stored_in": [link.stored and link.stored.archive for link in links],
        "stored_at": [link.stored and link.stored.offset for link in links],
        "stored_bytes": [link.stored and link.stored.length for link in links],
    }
    return pa.RecordBatch.from_pydict(columns, schema=LINKS)


def _held(images: list[Held], first: int) -> pa.RecordBatch:
    fields = (field.name for field in HELD if field.name != "place")
    columns = {name: [getattr(image, name) for image in images] for name in fields}
    return pa.RecordBatch.from_pydict({"place": range(first, first + len(images)), **columns}, schema=HELD)
