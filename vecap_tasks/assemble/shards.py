"""Training shards: which rows share one, and the tar with `<key>.jpg`, `.txt` and `.json` and its table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from vecap_tasks.core.manifest import canonical_json
from vecap_tasks.core.schemas import SAMPLES
from vecap_tasks.core.store import Local
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import TarWriter, read_samples
from vecap_tasks.errors import CorruptError

MIXED = 4  # training shards that a group's rows are at least mixed over, where the crawl has that many
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Source:
    """A crawl shard: where the store has its table and its tar, and how many of its rows become samples."""

    table: str
    tar: str
    samples: int


@dataclass(frozen=True, slots=True)
class Group:
    """Crawl shards whose samples are mixed, and the training shards made of them: `sizes[0]` is for shard `first`."""

    name: str
    sources: tuple[Source, ...]
    first: int
    sizes: tuple[int, ...]


def plan_groups(sources: Iterable[Source], shard_size: int) -> list[Group]:
    """Group *sources* in their order. A group's training shards are of one size, give or take one sample."""
    groups: list[Group] = []
    first = 0
    for members in _gather(sources, MIXED * shard_size):
        samples = sum(source.samples for source in members)
        shards = -(-samples // shard_size)
        size, larger = divmod(samples, shards)
        sizes = tuple(size + 1 if number < larger else size for number in range(shards))
        groups.append(Group(f"{len(groups):05d}", members, first, sizes))
        first += shards
    return groups


def _gather(sources: Iterable[Source], enough: int) -> list[tuple[Source, ...]]:
    gathered: list[tuple[Source, ...]] = []
    members: list[Source] = []
    for source in sources:
        if source.samples == 0:
            continue
        members.append(source)
        if sum(member.samples for member in members) >= enough:
            gathered.append(tuple(members))
            members = []
    return [*gathered, tuple(members)] if members else gathered


@dataclass(frozen=True, slots=True)
class _Place:
    offset: int
    length: int


def write_shards(local: Local, group: Group, samples: pa.Table, work: Path, digits: int) -> dict[str, int]:
    """Write the training shards of *group* into *work* and return their files with their rows; *local* opens its tars.

    *samples* has the columns of SAMPLES in the order they are written in; its `key` is that of the crawl. *digits* is
    how many of the new key count within a shard. Raises CorruptError where a tar lacks an image.
    """
    spool = work / "images.spool"
    with spool.open("w+b") as images:
        places = _spool(local, group, set(samples["key"].to_pylist()), images)
        written: dict[str, int] = {}
        start = 0
        for number, size in enumerate(group.sizes, group.first):
            name = f"{number:05d}"
            _write(samples.slice(start, size), name, digits, images, places, work)
            written |= {f"{name}.tar": size, f"{name}.parquet": size}
            start += size
    spool.unlink()
    return written


def _spool(local: Local, group: Group, wanted: set[str], images: IO[bytes]) -> dict[str, _Place]:
    """Copy the JPEG of each *wanted* key into *images*, tar after tar, and return where it is."""
    places: dict[str, _Place] = {}
    for source in group.sources:
        with local(source.tar) as path, path.open("rb") as stream:
            for sample in read_samples(stream, source.tar, ("jpg",)):
                if sample.key not in wanted:
                    continue
                image = sample.members.get("jpg")
                if image is None:
                    raise CorruptError(f"{source.tar} has no image for {sample.key}; restore it, or crawl again")
                places[sample.key] = _Place(images.tell(), len(image))
                images.write(image)
    lost = wanted - places.keys()
    if lost:
        raise CorruptError(f"{len(lost)} images are not in the crawl's tars, such as {min(lost)}; run `vecap verify`")
    return places


def _write(
    samples: pa.Table, shard: str, digits: int, images: IO[bytes], places: dict[str, _Place], work: Path
) -> None:
    keys = pa.array([f"{shard}{row:0{digits}d}" for row in range(len(samples))])
    renamed = samples.set_column(samples.schema.get_field_index("key"), SAMPLES.field("key"), keys)
    write_rows(renamed.to_batches(), SAMPLES, work / f"{shard}.parquet")
    crawled = iter(samples["key"].to_pylist())
    with TarWriter(work / f"{shard}.tar") as tar:
        for row in _rows(renamed):
            place = places[next(crawled)]
            images.seek(place.offset)
            image = images.read(place.length)
            tar.write(row["key"], {"jpg": image, "txt": row["vecap"].encode(), "json": canonical_json(row)})


def _rows(samples: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in samples.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()
