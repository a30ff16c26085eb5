"""Synthetic crawl tables with duplicates, and the cost of finding them, for `python -m benchmarks.scale --duplicates`.

Three percent of the rows failed and about four percent are flat, without a hash. Of the others a tenth repeats an image
byte by byte, a twentieth has its hash but other bytes, and a tenth differs in one to three bits of the hash. With
*popular*, a fifth of the hashes also share 16 bits, and half of these 28 bits.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.core.schemas import CRAWL

_SHARD = 10_000  # rows
_SAMPLE_SECONDS = 0.1
_POPULAR = np.uint64(0xA5C3 << 48)


@dataclass
class Cost:
    """What a block cost: wall clock and CPU seconds, peak memory of the process and peak size of a folder, in bytes."""

    seconds: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    disk: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def _watch(self, folder: Path, before: int) -> None:
        process = psutil.Process()
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.memory = max(self.memory, process.memory_info().rss)
            self.disk = max(self.disk, size(folder) - before)


@contextmanager
def watching(folder: Path) -> Iterator[Cost]:
    """Yield the Cost of the block, which grows *folder*."""
    cost = Cost()
    watcher = threading.Thread(target=cost._watch, args=(folder, size(folder)))
    watcher.start()
    start, cpu = time.monotonic(), time.process_time()
    try:
        yield cost
    finally:
        cost.seconds, cost.cpu = time.monotonic() - start, time.process_time() - cpu
        cost._stop.set()
        watcher.join()


def size(folder: Path) -> int:
    """Return the bytes on disk of the files under *folder*, which may come and go."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(where, name).stat().st_blocks * 512
    return total


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
    flat, failed = kind < 0.02, kind > 0.97
    flat |= hashes % np.uint64(50) == 0  # the same for equal images
    uids = rng.bytes(16 * count).hex()
    mixed = (images.astype(np.uint64) + np.uint64(seed << 40)) * np.uint64(0x9E3779B97F4A7C15)
    words = [mixed ^ (mixed >> np.uint64(29)), mixed * np.uint64(0xBF58476D1CE4E5B9), mixed ^ np.uint64(7), mixed]
    shas = np.stack(words, axis=1).astype(">u8").tobytes().hex()
    phashes = hashes.astype(">u8").tobytes().hex()
    columns = {
        "key": [f"{shard:05d}{row:04d}" for row in range(count)],
        "uid": [uids[32 * row : 32 * row + 32] for row in range(count)],
        "url": [f"https://host{row % 97}.example/{uids[32 * row : 32 * row + 20]}.jpg" for row in range(count)],
        "source": ["web"] * count,
        "status": ["failed_to_download" if lost else "success" for lost in failed],
        "sha256": [None if failed[row] else shas[64 * row : 64 * row + 64] for row in range(count)],
        "phash": [None if failed[row] or flat[row] else phashes[16 * row : 16 * row + 16] for row in range(count)],
    }
    missing = {name: pa.nulls(count, CRAWL.field(name).type) for name in CRAWL.names if name not in columns}
    pq.write_table(pa.table(columns | missing).select(CRAWL.names).cast(CRAWL), path, compression="zstd")
