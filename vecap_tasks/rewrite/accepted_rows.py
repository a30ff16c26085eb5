"""The accepted rows of a shard, and their stored images out of the crawl's tars, ahead of the model that reads them."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, starmap
from pathlib import Path
from typing import TypeVar

from PIL import Image

from vecap_tasks.core.store import Local, Store
from vecap_tasks.core.tables import connect, scan
from vecap_tasks.core.tar import read_samples
from vecap_tasks.errors import CorruptError
from vecap_tasks.rewrite.backends.sampling_params import Sampling

T = TypeVar("T")

DECODERS = 4  # threads, where a model leaves the CPU to them
_DECODED_AHEAD = 64  # images


@dataclass(frozen=True, slots=True)
class Row:
    """An accepted row that wants a caption. `tar` is where the store has the shard with its image."""

    key: str
    uid: str
    sha256: str
    alttext: str | None
    tar: str


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A row with its picture in RGB, or with None where the stored bytes (`jpeg`) are no image."""

    row: Row
    image: Image.Image | None
    jpeg: bytes = b""


def read_rows(store: Store, verdicts: str, tables: Mapping[str, str], shard: int, size: int, work: Path) -> list[Row]:
    """Return the accepted rows of *shard*, *size* to a shard, in the order of their keys.

    *verdicts* and *tables*, the crawl's tables with the tar of each, are names in the *store*; *work* is a folder for
    what does not fit into memory. Raises CorruptError for an accepted row that no table has.
    """
    verdicts = store.query_path(verdicts)
    tars = {store.query_path(table): tar for table, tar in tables.items()}
    with connect(store, threads=1, work=work) as connection:
        lines = connection.execute(f"""
            SELECT key, uid, verdict.sha256, alttext, shard.filename
            FROM {scan([verdicts])} AS verdict
            LEFT JOIN (SELECT key, filename FROM {scan(list(tars))}) AS shard USING (key)
            WHERE accepted ORDER BY key LIMIT {size} OFFSET {shard * size}""").fetchall()  # noqa: S608
    for key, *_, file in lines:
        if file is None:
            raise CorruptError(f"{verdicts} accepts row {key}, which no crawl shard has; run `vecap verify`")
    return [Row(key, uid, sha256, alttext, tars[file]) for key, uid, sha256, alttext, file in lines]


def read_inputs(
    local: Local, asked: Sequence[tuple[Row, Sampling]], decoders: int
) -> Iterator[tuple[ImageInput, Sampling]]:
    """Give the image of each of *asked*, read once for all draws of a row, which follow one another."""
    draws: dict[str, list[Sampling]] = {}
    for row, draw in asked:
        draws.setdefault(row.key, []).append(draw)
    for seen in read_images(local, dict.fromkeys(row for row, _ in asked), decoders):
        for draw in draws[seen.row.key]:
            yield seen, draw


def read_images(local: Local, rows: Iterable[Row], decoders: int) -> Iterator[ImageInput]:
    """Give the image of every row, tar by tar, decoded ahead on so many threads, or with 1 on the caller's.

    *local* opens the tars.

    Raises CorruptError for a tar that is broken or lacks an image.
    """
    if decoders == 1:
        yield from starmap(_decode, _stored(local, rows))
        return
    with ThreadPoolExecutor(decoders, "decode") as threads:
        decoding: deque[Future[ImageInput]] = deque()
        for row, data in _stored(local, rows):
            decoding.append(threads.submit(_decode, row, data))
            if len(decoding) > _DECODED_AHEAD:
                yield decoding.popleft().result()
        while decoding:
            yield decoding.popleft().result()


def _stored(local: Local, rows: Iterable[Row]) -> Iterator[tuple[Row, bytes]]:
    for tar, group in groupby(rows, key=lambda row: row.tar):
        wanted = {row.key: row for row in group}
        with local(tar) as path, path.open("rb") as stream:
            for sample in read_samples(stream, tar, ("jpg",)):
                row = wanted.pop(sample.key, None)
                if row is not None:
                    yield row, sample.members.get("jpg", b"")
                if not wanted:
                    break
        if wanted:
            raise CorruptError(f"{tar} has no image {min(wanted)}; run `vecap verify`, then restore it or crawl again")


def _decode(row: Row, data: bytes) -> ImageInput:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageInput(row, image.convert("RGB"), data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ImageInput(row, None, data)  # what PIL raises for bytes that are no image, or half of one


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Give *items*, making the next one on a thread while the caller works with the last."""
    with ThreadPoolExecutor(1, "images") as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
