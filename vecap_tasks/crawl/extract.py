"""Reads one part of a source (a file, or a whole site) into a table of the links that it names.

Parts are read side by side. Each table appears whole, and its footer keeps what was read and counted. A part that
holds images itself gets a second table, of where they lie.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeVar

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
_COLLECT_AFTER = 100_000  # objects: reading makes many and no cycles, and Python would look for some after every 700

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
    with _few_collections(), ExitStack() as files:
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


@contextmanager
def _few_collections() -> Iterator[None]:
    """Let Python look for cycles less often, at a twentieth of the CPU time less."""
    young, *others = gc.get_threshold()
    gc.set_threshold(_COLLECT_AFTER, *others)
    try:
        yield
    finally:
        gc.set_threshold(young, *others)


def read_tally(metadata: pq.FileMetaData) -> Tally:
    """Return what the table with this footer was made from."""
    body = json.loads(metadata.metadata[FOOTER])
    return Tally(Counter(body["counters"]), [Input(**item) for item in body["inputs"]])


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


def _held(images: list[Held], first: int) -> pa.RecordBatch:
    fields = (field.name for field in HELD if field.name != "place")
    columns = {name: [getattr(image, name) for image in images] for name in fields}
    return pa.RecordBatch.from_pydict({"place": range(first, first + len(images)), **columns}, schema=HELD)
