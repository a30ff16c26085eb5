"""Synthetic crawl tables with duplicates, and the cost of finding them, for `python -m benchmarks.scale --duplicates`.

Three percent of the rows failed and two percent are flat, without a hash. Of the others a tenth repeats an image
byte by byte, a twentieth has its hash but other bytes, and a tenth differs in one to three bits of the hash. With
*popular*, a fifth of the hashes also share 16 bits, and half of these 28 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.report import Measure, machine
from benchmarks.tree import watching
from vecap_tasks.config import DuplicatesConfig
from vecap_tasks.core.schemas import CRAWL
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.crawl import hamming
from vecap_tasks.crawl.dedup import write_duplicates
from vecap_tasks.crawl.hash_index import CrawlTables, PublishedCrawl

_SHARD = 10_000  # rows
_POPULAR = np.uint64(0xA5C3 << 48)


def make_hashes(rows: int, rng: np.random.Generator, *, popular: bool = False) -> np.ndarray:
    """Return uint64 [rows]: random hashes of images, a tenth of them a few bits from another."""
    hashes = rng.integers(0, 1 << 64, rows, dtype=np.uint64)
    if popular:
        share = rng.random(rows)
        hashes = np.where(share < 0.2, (hashes >> np.uint64(16)) | _POPULAR, hashes)
        hashes = np.where(share < 0.1, hashes & ~np.uint64(0xFFF << 36), hashes)
    near = np.flatnonzero(rng.random(rows) < 0.1)
    flipped = np.zeros(len(near), np.uint64)
    for _ in range(3):
        flipped |= np.uint64(1) << rng.integers(0, 64, len(near)).astype(np.uint64)
    hashes[near] = hashes[rng.integers(0, rows, len(near))] ^ flipped
    return hashes


def write_tables(folder: Path, rows: int, seed: int = 0, *, popular: bool = False) -> list[str]:
    """Write tables of a crawl (CRAWL) with *rows* rows to *folder* and return their names."""
    rng = np.random.default_rng(seed)
    hashes = make_hashes(rows, rng, popular=popular)
    images = np.arange(rows)
    repeats = rng.random(rows) < 0.15
    again = np.flatnonzero(repeats)
    original = rng.choice(np.flatnonzero(~repeats), len(again))
    hashes[again] = hashes[original]
    equal = rng.random(len(again)) < 2 / 3
    images[again[equal]] = images[original[equal]]
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for shard, start in enumerate(range(0, rows, _SHARD)):
        part = slice(start, min(start + _SHARD, rows))
        _write_table(folder / f"{shard:05d}.parquet", seed, shard, images[part], hashes[part], rng)
        names.append(f"{shard:05d}.parquet")
    return names


def _write_table(
    path: Path, seed: int, shard: int, images: np.ndarray, hashes: np.ndarray, rng: np.random.Generator
) -> None:
    count = len(images)
    kind = rng.random(count)
    failed = kind > 0.97
    flat = failed | (hashes % np.uint64(50) == 0)  # the same for equal images
    mixed = (images.astype(np.uint64) + np.uint64(seed << 40)) * np.uint64(0x9E3779B97F4A7C15)
    words = [mixed ^ (mixed >> np.uint64(29)), mixed * np.uint64(0xBF58476D1CE4E5B9), mixed ^ np.uint64(7), mixed]
    uid = _texts(rng.bytes(16 * count), 16)
    columns = {
        "key": pa.array([f"{shard:05d}{row:04d}" for row in range(count)]),
        "uid": uid,
        "url": uid,
        "source": pa.repeat("web", count),
        "status": pc.if_else(pa.array(failed), "failed_to_download", "success"),
        "sha256": pc.if_else(pa.array(failed), None, _texts(np.stack(words, axis=1).astype(">u8").tobytes(), 32)),
        "phash": pc.if_else(pa.array(flat), None, _texts(hashes.astype(">u8").tobytes(), 8)),
    }
    missing = {name: pa.nulls(count, CRAWL.field(name).type) for name in CRAWL.names if name not in columns}
    pq.write_table(pa.table(columns | missing).select(CRAWL.names).cast(CRAWL), path, compression="zstd")


def _texts(data: bytes, width: int) -> pa.Array:
    """Return the hex digits of each *width* bytes."""
    offsets = np.arange(0, 2 * len(data) + 1, 2 * width, dtype=np.int32)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data.hex().encode()))


def tables_in(store: Store, names: Sequence[str]) -> CrawlTables:
    """Return the tables *names* with their records."""
    files = tuple(RecordedFile(store, name, store.size(name), store.sha256(name), "") for name in names)
    return CrawlTables(files, sum(pq.read_metadata(store.path(name)).num_rows for name in names))


def find(rows: int, new: int, memory: str, *, popular: bool) -> list[Measure]:
    """Measure the search in *rows* rows, and in *new* rows of a next version, which reads the index of the first."""
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        store = Store(str(folder / "store"))
        tables = tables_in(store, write_tables(folder / "store", rows, popular=popular))
        label = f"{rows:,} rows{', popular bits' if popular else ''}"
        measures, index = _search(store, tables, [], memory, label)
        if new:
            names = write_tables(folder / "store" / "next", new, 1, popular=popular)
            crawl = PublishedCrawl("first", "f" * 64, tables, index)
            later = tables_in(store, [f"next/{name}" for name in names])
            measures += _search(store, later, [crawl], memory, f"{new:,} rows after {label}")[0]
            crawl = replace(crawl, index=())
            measures += _search(store, later, [crawl], memory, f"{new:,} rows after {label} without an index")[0]
    return measures


def _search(
    store: Store, tables: CrawlTables, earlier: Sequence[PublishedCrawl], memory: str, label: str
) -> tuple[list[Measure], tuple[RecordedFile, ...]]:
    root = Path(store.path("")).resolve()
    with store.workspace() as work:
        before = psutil.Process().memory_info().rss
        with watching(root) as cost:
            found = write_duplicates(store, tables, earlier, DuplicatesConfig(), memory, f"steps-{label}", work)
        names = []
        for path in found.index:
            names.append(f"{label}/{path}")
            store.upload(names[-1], work / path)
    steps = sum(file.bytes for file in store.tree(f"steps-{label}"))
    store.remove_folder(f"steps-{label}")
    index = tables_in(store, names).files
    conditions = f"{machine()}, memory_limit {memory}, {found.counters}"
    values = {
        "seconds": ("s", cost.seconds),
        "CPU per million rows": ("s", cost.cpu / tables.rows * 1e6),
        "peak memory": ("MiB", cost.memory / 2**20),
        "memory before": ("MiB", before / 2**20),
        "intermediate files": ("MiB", steps / 2**20),
        "peak of all files": ("MiB", cost.disk / 2**20),
        "index": ("MiB", sum(file.bytes for file in index) / 2**20),
    }
    return [
        Measure(f"{label}: {name}", unit, value, conditions=conditions) for name, (unit, value) in values.items()
    ], (index)


def density(rows: int, memory_bytes: int, *, popular: bool) -> list[Measure]:
    """Measure the search for near duplicates in one part, as dense as one of *rows* distinct hashes."""
    rng = np.random.default_rng(2)
    max_rows = memory_bytes // hamming.BYTES_PER_HASH
    count = hamming.parts_for(rows, max_rows)
    group = next(hamming.Group().divide(3))
    values = np.arange(1 << 16, dtype=np.uint64)
    values = values[hamming._bucket(values << np.uint64(48), group.used, count) == 0]
    hashes = make_hashes(rows // count, rng, popular=popular)
    if popular:
        values = np.append(values, _POPULAR >> np.uint64(48))
        chosen = (hashes >> np.uint64(48)) != _POPULAR >> np.uint64(48)
        hashes[chosen] = _with_first(hashes[chosen], rng.choice(values, chosen.sum()))
    else:
        hashes = _with_first(hashes, rng.choice(values, len(hashes)))
    hashes = np.unique(hashes)
    part = hamming.Part(group, lambda: [hashes], lambda: [], len(hashes))
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as folder, watching(Path(folder)) as cost:
        pairs = sum(len(batch) for batch in hamming.find_pairs(part, 3, max_rows, Path(folder)))
    label = f"one of {4 * count} parts of {rows:,} hashes{', popular bits' if popular else ''}"
    conditions = f"{machine()}, {len(hashes):,} hashes, {pairs:,} pairs"
    return [
        Measure(f"{label}: CPU", "s", cost.cpu, conditions=conditions),
        Measure(f"{label}: CPU, all parts", "s", cost.cpu * 4 * count, conditions=conditions),
        Measure(f"{label}: peak memory", "MiB", cost.memory / 2**20, conditions=conditions),
    ]


def _with_first(hashes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return *hashes* with *values* as their first 16 bits."""
    return hashes & np.uint64((1 << 48) - 1) | values << np.uint64(48)


def duplicates(sizes: Iterable[int]) -> list[Measure]:
    """Measure each size in a process of its own, for its peak memory."""
    calls: list[tuple[Callable[..., list[Measure]], tuple[int, ...], bool]] = []
    for rows in sizes:
        calls += [(find, (rows, rows // 10), popular) for popular in (False, True)]
    calls += [(density, (300_000_000, 1_000_000_000), popular) for popular in (False, True)]
    measures = []
    for function, arguments, popular in calls:
        values = (*arguments, "1GB") if function is find else arguments
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            measures += process.submit(function, *values, popular=popular).result()
    return measures
