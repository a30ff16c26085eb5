"""The cost of the search for semantic duplicates in generated embeddings, and the share of similar pairs that it finds.

    python -m benchmarks.semantic ROWS … [--json FILE]

Embeddings have 512 dimensions. Images belong to groups of a thousand with a cosine of about 0.6 to each other. A tenth
of the rows are copies of other rows, with a cosine of about 0.97. The search rejects at 0.9.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import Measure, machine, report
from benchmarks.tree import watching
from vecap_tasks.core.intermediate import put_recorded
from vecap_tasks.core.store import Store
from vecap_tasks.quality.clusters import BATCH, EMBEDDINGS
from vecap_tasks.quality.semantic import SemanticSearch

_SHARD = 10_000  # rows
_WIDTH = 512
_GROUP = 1_000
_SIMILARITY = 0.9
_SPREAD, _NOISE = 0.8, 0.25  # lengths of the random vectors that are added to a center, and to a copied image


def _random(rng: np.random.Generator, rows: int, length: float = 1.0) -> np.ndarray:
    return rng.standard_normal((rows, _WIDTH)).astype(np.float32) * np.float32(length / _WIDTH**0.5)


def write_embeddings(store: Store, rows: int, seed: int = 0) -> tuple[dict[str, str], int]:
    """Write embeddings of *rows* rows to *store*; return the files by shard, and the number of copies.

    A copy has an original in the same shard or in the one before.
    """
    rng = np.random.default_rng(seed)
    centers = _random(rng, max(1, rows // _GROUP))
    names: dict[str, str] = {}
    previous = np.empty((0, _WIDTH), np.float32)
    copies = 0
    for start in range(0, rows, _SHARD):
        count = min(_SHARD, rows - start)
        vectors = centers[rng.integers(0, len(centers), count)] + _random(rng, count, _SPREAD)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        originals = np.concatenate([previous, vectors[count // 10 :]])
        chosen = rng.choice(len(originals), count // 10, replace=False)
        vectors[: count // 10] = originals[chosen] + _random(rng, count // 10, _NOISE)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        copies += count // 10
        previous = vectors[count // 10 :]
        shard = f"{start // _SHARD:05d}"
        columns = {
            "key": [f"{shard}{row:05d}" for row in range(count)],
            "uid": [f"{start + row:032x}" for row in range(count)],
            "sha256": [rng.bytes(32).hex() for _ in range(count)],
            "priority": [0] * count,
            "embedding": [vector.tobytes() for vector in vectors.astype(np.float16)],
        }
        names[shard] = f"embeddings/{shard}.arrow"
        with store.workspace() as work:
            with pa.ipc.new_file(str(work / "shard.arrow"), EMBEDDINGS) as writer:
                writer.write_table(pa.table(columns, EMBEDDINGS), max_chunksize=BATCH)
            put_recorded(store, names[shard], work / "shard.arrow")
    return names, copies


def measure(rows: int) -> list[Measure]:
    """Return the costs of one search in *rows* rows, in this process."""
    with tempfile.TemporaryDirectory(prefix="vecap-bench-", dir="/var/tmp") as name:
        store = Store(f"{name}/store")
        names, copies = write_embeddings(store, rows)
        embedded = sum(file.bytes for file in store.tree("embeddings"))
        counts = {shard: min(_SHARD, rows - number * _SHARD) for number, shard in enumerate(names)}
        search = SemanticSearch(store, "semantic", counts, names, _SIMILARITY)
        with watching(Path(name)) as cost:
            while parts := search.preparations():
                for part in parts:
                    with store.workspace() as work:
                        search.prepare(part, work)
        found = sum(pq.read_metadata(path).num_rows for path in search.fetch(Path(name) / "found"))
    conditions = f"{machine()}, {found:,} duplicates"
    values = {
        "CPU per million rows": ("s", cost.cpu / rows * 1e6),
        "peak memory": ("MiB", cost.memory / 2**20),
        "embeddings per row": ("bytes", embedded / rows),
        "temporary files per row": ("bytes", cost.disk / rows),
        "similar pairs found": ("%", 100 * found / copies),
    }
    return [
        Measure(f"{rows:,} rows: {key}", unit, value, conditions=conditions) for key, (unit, value) in values.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+", metavar="ROWS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measures to FILE")
    options = parser.parse_args(arguments)
    measures = []
    for rows in options.rows:  # each in a process of its own, for its peak memory
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            measures += process.submit(measure, rows).result()
    report(measures, options.json)


if __name__ == "__main__":
    main()
