"""Plans and writes training shards: a tar with `<key>.jpg`, `.txt` and `.json`, and a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from vecap_tasks.core.manifest import canonical_json
from vecap_tasks.core.schemas import KEPT, SAMPLES, with_kept
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import StoredImages, TarWriter

MIN_MIXED_SHARDS = 4  # minimum training shards per group over which rows are shuffled
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Source:
    """A crawl shard: the store names of its table and tar, and the number of its rows that become samples."""

    table: str
    tar: str
    samples: int


@dataclass(frozen=True, slots=True)
class Group:
    """Crawl shards whose samples are shuffled together, and the sizes of their training shards, starting at `first`."""

    name: str
    sources: tuple[Source, ...]
    first: int
    sizes: tuple[int, ...]


def plan_groups(sources: Iterable[Source], shard_size: int) -> list[Group]:
    """Group *sources* in order. Sizes of a group's training shards differ by at most one sample."""
    groups: list[Group] = []
    first = 0
    for members in _collect(sources, MIN_MIXED_SHARDS * shard_size):
        samples = sum(source.samples for source in members)
        shards = -(-samples // shard_size)
        size, larger = divmod(samples, shards)
        sizes = tuple(size + 1 if number < larger else size for number in range(shards))
        groups.append(Group(f"{len(groups):05d}", members, first, sizes))
        first += shards
    return groups


def _collect(sources: Iterable[Source], min_samples: int) -> list[tuple[Source, ...]]:
    groups: list[tuple[Source, ...]] = []
    members: list[Source] = []
    for source in sources:
        if source.samples == 0:
            continue
        members.append(source)
        if sum(member.samples for member in members) >= min_samples:
            groups.append(tuple(members))
            members = []
    return [*groups, tuple(members)] if members else groups


@dataclass(frozen=True, slots=True)
class _Span:
    offset: int
    length: int


def write_shards(
    stored: StoredImages,
    group: Group,
    samples: pa.Table,
    wanted: Mapping[str, Mapping[str, str | None]],
    work: Path,
    digits: int,
) -> dict[str, int]:
    """Write the training shards of *group* to *work* and return the rows of each file.

    *samples* has the columns of SAMPLES, and may have `kept`, in output order, with crawl keys. *wanted* maps each tar
    to the keys of its images and their sha256. *digits* is the width of the row number in a new key. Raises
    CorruptError if an image is missing or corrupt.
    """
    spool = work / "images.spool"
    with spool.open("w+b") as images:
        spans = _spool_images(stored, group, wanted, images)
        files: dict[str, int] = {}
        start = 0
        for number, size in enumerate(group.sizes, group.first):
            name = f"{number:05d}"
            _write_shard(samples.slice(start, size), name, digits, images, spans, work)
            files |= {f"{name}.tar": size, f"{name}.parquet": size}
            start += size
    spool.unlink()
    return files


def _spool_images(
    stored: StoredImages, group: Group, wanted: Mapping[str, Mapping[str, str | None]], images: IO[bytes]
) -> dict[str, _Span]:
    """Copy the JPEG of each *wanted* key to *images* and return its span."""
    spans: dict[str, _Span] = {}
    for source in group.sources:
        for key, image in stored(source.tar, wanted[source.tar]):
            spans[key] = _Span(images.tell(), len(image))
            images.write(image)
    return spans


def _write_shard(
    samples: pa.Table, shard: str, digits: int, images: IO[bytes], spans: dict[str, _Span], work: Path
) -> None:
    keys = pa.array([f"{shard}{row:0{digits}d}" for row in range(len(samples))])
    renamed = samples.set_column(samples.schema.get_field_index("key"), SAMPLES.field("key"), keys)
    write_rows(renamed.to_batches(), with_kept(SAMPLES, KEPT.name in samples.column_names), work / f"{shard}.parquet")
    crawl_keys = iter(samples["key"].to_pylist())
    with TarWriter(work / f"{shard}.tar") as tar:
        for row in _rows(renamed):
            span = spans[next(crawl_keys)]
            images.seek(span.offset)
            image = images.read(span.length)
            tar.write(row["key"], {"jpg": image, "txt": row["vecap"].encode(), "json": canonical_json(row)})


def _rows(samples: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in samples.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()
