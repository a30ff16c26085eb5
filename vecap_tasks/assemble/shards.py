"""Plans and writes training shards: a tar with `<key>.jpg`, `.txt` and `.json`, and a table.

A revision that changes only texts writes only the tables of samples whose images are in tars of an earlier version.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from vecap_tasks.core.manifest import Manifest, canonical_json, read_manifest
from vecap_tasks.core.schemas import IMAGE_TAR, KEPT, SAMPLES, with_kept
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import write_rows
from vecap_tasks.core.tar import StoredImages, TarWriter
from vecap_tasks.core.verify import RecordedFile, read_file, recorded_files

COUNTS = "samples.json"  # of the stage rewrite
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
        sizes = _equal_sizes(sum(source.samples for source in members), shard_size)
        groups.append(Group(f"{len(groups):05d}", members, first, sizes))
        first += len(sizes)
    return groups


def _equal_sizes(samples: int, shard_size: int) -> tuple[int, ...]:
    shards = -(-samples // shard_size)
    return tuple(len(range(number, samples, shards)) for number in range(shards))


def adopt_groups(sources: Iterable[Source], groups: Sequence[Group]) -> list[Group]:
    """Return *groups*, of an earlier version of the same crawl, with the *sources* of this one; without empty ones.

    A source without samples in the earlier version joins the group before it.
    """
    numbers = {shard_name(source.table): number for number, group in enumerate(groups) for source in group.sources}
    members: list[list[Source]] = [[] for _ in groups]
    current = 0
    for source in sources:
        current = numbers.get(shard_name(source.table), current)
        if source.samples:
            members[current].append(source)
    return [replace(group, sources=tuple(own)) for group, own in zip(groups, members, strict=True) if own]


def copied_sizes(samples: int, shard_size: int, group: Group, groups: Sequence[Group]) -> dict[int, int]:
    """Return numbers and sizes of the shards with the *samples* of *group* whose images no shard of *groups* has.

    The numbers follow those of *groups*, and depend only on them and the group.
    """
    first = sum(len(other.sizes) for other in groups) + int(group.name)
    return {first + n * len(groups): size for n, size in enumerate(_equal_sizes(samples, shard_size))}


def count_samples(counts: Mapping[str, Mapping[str, int]]) -> Counter[str]:
    """Return the samples of each crawl shard, from those in each shard of the captions: the content of `COUNTS`."""
    samples = Counter[str]()
    for found in counts.values():
        samples.update(found)
    return samples


def shard_name(file: str) -> str:
    """Return the shard of a table or tar."""
    return PurePosixPath(file).stem


@dataclass(frozen=True, slots=True)
class Base:
    """The earlier version whose image shards a revision uses: its groups of crawl shards, and its manifest."""

    groups: tuple[Group, ...]
    manifest: Manifest

    def files(self, store: Store, suffix: str) -> list[RecordedFile]:
        """Return the files of training shards that end with *suffix*."""
        return recorded_files(store, self.manifest, self.manifest.files_ending(suffix), "restore it")

    def shard_tables(self, store: Store, group: Group) -> list[RecordedFile]:
        """Return the tables of the shards of *group*."""
        names = {f"{number:05d}" for number in range(group.first, group.first + len(group.sizes))}
        return [file for file in self.files(store, ".parquet") if shard_name(file.name) in names]


def find_base(store: Store, dataset: str, images: Mapping[str, str], shard_size: int) -> Base | None:
    """Return the version of *images* (its name and the digest of its manifest) if its shards can be referred to.

    Returns None if it is missing, has changed, or has other groups of crawl shards or shards of another size.
    """
    folder = f"{dataset}/{images['version']}"
    crawl, rewrite, assembled = (read_manifest(store, f"{folder}/{name}") for name in ("crawl", "rewrite", "assemble"))
    if crawl is None or rewrite is None or assembled is None or assembled.digest != images["digest"]:
        return None
    if COUNTS not in rewrite.entries or assembled.config.get("shard_size") != shard_size:
        return None
    samples = count_samples(json.loads(read_file(store, rewrite, COUNTS)))
    sources = [Source(tar, tar, samples[shard_name(tar)]) for tar in crawl.files_ending(".tar")]
    groups = tuple(plan_groups(sources, shard_size))
    sizes = {f"{n:05d}": size for group in groups for n, size in enumerate(group.sizes, group.first)}
    recorded = {shard_name(entry.path): entry.rows for entry in assembled.files if entry.path.endswith(".tar")}
    return Base(groups, assembled) if sizes == recorded else None


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


def split_referenced(samples: pa.Table, shards: Mapping[str, pa.Table]) -> tuple[dict[str, pa.Table], pa.Table]:
    """Return the *samples* whose images are in *shards*, by shard, with its keys and in its order; and the others.

    *samples* has the columns of SAMPLES. *shards* has tables of training shards with the columns key, uid and sha256.
    """
    found = {}
    others = samples
    for shard, table in shards.items():
        positions = pc.index_in(table["uid"], value_set=samples["uid"].combine_chunks())
        listed, rows = table.filter(pc.is_valid(positions)), samples.take(pc.drop_null(positions))
        same = pc.equal(listed["sha256"], rows["sha256"])
        keys, rows = listed["key"].filter(same), rows.filter(same)
        if len(rows):
            found[shard] = _with_keys(rows, keys)
            others = others.filter(pc.invert(pc.is_in(others["uid"], value_set=rows["uid"].combine_chunks())))
    return found, others


def write_references(samples: Mapping[str, pa.Table], folder: str, work: Path) -> dict[str, int]:
    """Write the tables of *samples*, by shard, to *work*; the tars are in *folder* of the store. Return the rows."""
    files = {}
    for shard, rows in samples.items():
        table = _with_tar(rows, f"{folder}/{shard}.tar")
        files[f"{shard}.parquet"] = write_rows(table.to_batches(), _schema(table), work / f"{shard}.parquet")
    return files


def write_shards(
    stored: StoredImages,
    wanted: Mapping[str, Mapping[str, str | None]],
    samples: pa.Table,
    sizes: Mapping[int, int],
    work: Path,
    digits: int,
    folder: str | None = None,
) -> dict[str, int]:
    """Write training shards with images to *work* and return the rows of each file.

    *wanted* maps each tar to the keys of its images and their sha256. *samples* has the columns of SAMPLES, and may
    have `kept`, in output order, with crawl keys. *sizes* maps the numbers of the shards to their samples. *digits* is
    the width of the row number in a new key. With *folder*, that of the shards in the store, the tables name the tar.
    Raises CorruptError if an image is missing or corrupt.
    """
    spool = work / "images.spool"
    with spool.open("w+b") as images:
        spans = _spool_images(stored, wanted, images)
        files: dict[str, int] = {}
        start = 0
        for number, size in sizes.items():
            name = f"{number:05d}"
            rows = samples.slice(start, size)
            if folder is not None:
                rows = _with_tar(rows, f"{folder}/{name}.tar")
            _write_shard(rows, name, digits, images, spans, work)
            files |= {f"{name}.tar": size, f"{name}.parquet": size}
            start += size
    spool.unlink()
    return files


def _spool_images(
    stored: StoredImages, wanted: Mapping[str, Mapping[str, str | None]], images: IO[bytes]
) -> dict[str, _Span]:
    """Copy the JPEG of each *wanted* key to *images* and return its span."""
    spans: dict[str, _Span] = {}
    for tar in filter(wanted.get, wanted):
        for key, image in stored(tar, wanted[tar]):
            spans[key] = _Span(images.tell(), len(image))
            images.write(image)
    return spans


def _write_shard(
    samples: pa.Table, shard: str, digits: int, images: IO[bytes], spans: dict[str, _Span], work: Path
) -> None:
    keys = pa.array([f"{shard}{row:0{digits}d}" for row in range(len(samples))])
    renamed = _with_keys(samples, keys)
    write_rows(renamed.to_batches(), _schema(renamed), work / f"{shard}.parquet")
    crawl_keys = iter(samples["key"].to_pylist())
    with TarWriter(work / f"{shard}.tar") as tar:
        for row in _rows(renamed):
            span = spans[next(crawl_keys)]
            images.seek(span.offset)
            image = images.read(span.length)
            tar.write(row["key"], {"jpg": image, "txt": row["vecap"].encode(), "json": canonical_json(row)})


def _with_keys(samples: pa.Table, keys: pa.Array) -> pa.Table:
    return samples.set_column(samples.schema.get_field_index("key"), SAMPLES.field("key"), keys)


def _with_tar(samples: pa.Table, tar: str) -> pa.Table:
    return samples.append_column(IMAGE_TAR, pa.array([tar] * len(samples), IMAGE_TAR.type))


def _schema(samples: pa.Table) -> pa.Schema:
    schema = SAMPLES.append(IMAGE_TAR) if IMAGE_TAR.name in samples.column_names else SAMPLES
    return with_kept(schema, KEPT.name in samples.column_names)


def _rows(samples: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in samples.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()
