"""Reads the accepted rows of a shard and decodes their images from the crawl's tars ahead of the model."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, starmap
from pathlib import Path
from typing import TypeVar

from PIL import Image

from vecap_tasks.core.intermediate import fetch
from vecap_tasks.core.schemas import CRAWL, VERDICTS
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import connect, view_files
from vecap_tasks.core.tar import StoredImages
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.errors import CorruptError
from vecap_tasks.rewrite.backends.sampling_params import Sampling

T = TypeVar("T")

DECODE_THREADS = 4  # for models that do not run on the CPU
_DECODE_QUEUE = 64  # images


@dataclass(frozen=True, slots=True)
class Row:
    """An accepted row. `tar` is the store name of the crawl shard with its image, `sha256` the hash of the download.

    `jpeg_sha256` is the hash of the stored image, "" if unknown; `kept` is as in the crawl's tables.
    """

    key: str
    uid: str
    sha256: str
    alttext: str | None
    tar: str
    jpeg_sha256: str = ""
    kept: str | None = None


@dataclass(frozen=True, slots=True)
class ImageInput:
    """A row with its RGB image, or None if the stored bytes (`jpeg`) cannot be decoded."""

    row: Row
    image: Image.Image | None
    jpeg: bytes = b""


@dataclass(frozen=True, slots=True)
class Span:
    """The crawl shards with the accepted rows of a shard, and the number of accepted rows before these in the first."""

    shards: tuple[str, ...]
    offset: int


def plan_spans(accepted: Mapping[str, int], size: int) -> list[Span]:
    """Return the span of each shard of *size* rows, from the accepted rows of each crawl shard, in order."""
    spans: list[Span] = []
    shards: list[str] = []
    offset, rows = 0, 0  # of the open span
    for shard, count in accepted.items():
        if count == 0:
            continue
        if not shards:
            offset = 0
        shards.append(shard)
        rows += count
        while rows >= size:
            spans.append(Span(tuple(shards), offset))
            rows -= size
            shards = [shard] if rows else []
            offset = count - rows
    return [*spans, Span(tuple(shards), offset)] if shards else spans


def read_rows(
    store: Store,
    stored: StoredImages,
    verdicts: Sequence[RecordedFile],
    tables: Mapping[str, RecordedFile],
    offset: int,
    size: int,
    work: Path,
    *,
    kept: bool = False,
) -> list[Row]:
    """Return *size* accepted rows after the first *offset*, in key order; fewer at the end. *kept* reads `kept`.

    *verdicts* and *tables* (the tables by tar) are files of the same crawl shards. *work* is a folder for copies and
    spilled data. *stored* reads the images of crawls of release 0.1.0, whose tables lack their hashes. Raises
    CorruptError if a file differs from its record, or an accepted row is in no crawl table.
    """
    crawled = fetch(list(tables.values()), work / "crawl")
    tars = dict(zip(crawled, tables, strict=True))
    column = "kept" if kept else "NULL AS kept"
    with connect(store, threads=1, work=work) as connection:
        view_files(connection, "crawl", crawled, CRAWL)
        view_files(connection, "verdicts", fetch(verdicts, work / "verdicts"), VERDICTS)
        records = connection.execute(f"""
            SELECT key, uid, verdict.sha256, alttext, shard.filename, shard.jpeg_sha256, shard.kept
            FROM (SELECT * FROM verdicts WHERE accepted ORDER BY key LIMIT {size} OFFSET {offset}) AS verdict
            LEFT JOIN (SELECT key, filename, jpeg_sha256, {column} FROM crawl) AS shard USING (key)
            ORDER BY key""").fetchall()  # noqa: S608
    for key, _, _, _, file, *_ in records:
        if file is None:
            raise CorruptError(f"{verdicts[0].name} accepts row {key}, but no crawl shard has it; run `vecap verify`")
    rows = [
        Row(key, uid, sha256, text, tars[file], jpeg_sha256 or "", others)
        for key, uid, sha256, text, file, jpeg_sha256, others in records
    ]
    hashes = hash_images(stored, ((row.tar, row.key) for row in rows if not row.jpeg_sha256))
    return [row if row.jpeg_sha256 else replace(row, jpeg_sha256=hashes[row.tar, row.key]) for row in rows]


def hash_images(stored: StoredImages, images: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the sha256 of each of *images*, pairs of a crawl's tar and a key in it. Reads each tar once."""
    keys: dict[str, list[str]] = {}
    for tar, key in images:
        keys.setdefault(tar, []).append(key)
    return {
        (tar, key): hashlib.sha256(jpeg).hexdigest()
        for tar, wanted in keys.items()
        for key, jpeg in stored(tar, dict.fromkeys(wanted))
    }


def read_inputs(
    stored: StoredImages, requests: Sequence[tuple[Row, Sampling]], decode_threads: int
) -> Iterator[tuple[ImageInput, Sampling]]:
    """Yield the image of each of *requests*. Reads an image once; the samplings of a row must be adjacent."""
    samplings: dict[str, list[Sampling]] = {}
    for row, sampling in requests:
        samplings.setdefault(row.key, []).append(sampling)
    for item in read_images(stored, dict.fromkeys(row for row, _ in requests), decode_threads):
        for sampling in samplings[item.row.key]:
            yield item, sampling


def read_images(stored: StoredImages, rows: Iterable[Row], decode_threads: int) -> Iterator[ImageInput]:
    """Yield the image of every row, tar by tar.

    Decodes ahead on *decode_threads* threads, or in the calling thread if it is 1. Raises CorruptError if a tar is
    corrupt or has no image for a row.
    """
    if decode_threads == 1:
        yield from starmap(_decode, _read_jpegs(stored, rows))
        return
    with ThreadPoolExecutor(decode_threads, "decode") as threads:
        decoding: deque[Future[ImageInput]] = deque()
        for row, data in _read_jpegs(stored, rows):
            decoding.append(threads.submit(_decode, row, data))
            if len(decoding) > _DECODE_QUEUE:
                yield decoding.popleft().result()
        while decoding:
            yield decoding.popleft().result()


def _read_jpegs(stored: StoredImages, rows: Iterable[Row]) -> Iterator[tuple[Row, bytes]]:
    for tar, group in groupby(rows, key=lambda row: row.tar):
        wanted = {row.key: row for row in group}
        for key, jpeg in stored(tar, {key: row.jpeg_sha256 or None for key, row in wanted.items()}):
            yield wanted[key], jpeg


def _decode(row: Row, data: bytes) -> ImageInput:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return ImageInput(row, image.convert("RGB"), data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ImageInput(row, None, data)  # not an image, or truncated


def prefetch(items: Iterator[T]) -> Iterator[T]:
    """Yield *items*, computing the next one in a thread."""
    with ThreadPoolExecutor(1, "images") as thread:
        next_item = thread.submit(next, items, None)
        while (item := next_item.result()) is not None:
            next_item = thread.submit(next, items, None)
            yield item
