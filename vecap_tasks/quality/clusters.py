"""Clusters of embeddings, and exact search for similar images in a cluster.

Embeddings are unit vectors in float16. Rows are distributed over clusters by the nearest of several centroids. Dot
products of such vectors in float64 are exact, so centroids and clusters do not depend on the order of summation.
usearch compares each pair of a cluster on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

EMBEDDINGS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("priority", pa.int8(), nullable=False),  # 0: no problem; 1: no usable AltText; 2: rejected
        pa.field("embedding", pa.binary(), nullable=False),  # float16, unit length
    ]
)
FOUND = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the first row with the image
        pa.field("uid", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),  # uid of the first row with the retained image
        pa.field("similarity", pa.float64(), nullable=False),  # cosine of the two, to 4 decimals
    ]
)
SAMPLES = 32  # per centroid
BATCH = 1 << 13  # rows to read and to assign at a time
_CLUSTER_ROWS = 1 << 12  # average of divided embeddings; the costs per row are proportional to it
_MAX_CLUSTER_ROWS = 1 << 14  # compared in memory
_MAX_CHILDREN = 256
_MAX_DEPTH = 3  # a cluster that remains too large has hardly any distinct images
_ITERATIONS = 5
_BLOCK = 256  # rows to compare at a time
_DECIMALS = 4
Vectors = npt.NDArray[np.float16]  # [rows, width]


def find_duplicates(paths: Sequence[str], similarity: float, work: Path) -> Iterator[pa.RecordBatch]:
    """Yield the semantic duplicates (FOUND) of the files *paths* (EMBEDDINGS), in the order of clusters.

    *work* is an empty folder for temporary files, up to twice the size of *paths*.
    """
    pending: list[tuple[Sequence[str], int]] = [(paths, 0)]
    files = 0
    while pending:
        found, depth = pending.pop()
        rows = _count(found)
        centroids = None
        if rows > _MAX_CLUSTER_ROWS and depth < _MAX_DEPTH:
            count = min(_MAX_CHILDREN, -(-rows // _CLUSTER_ROWS))
            centroids = find_centroids(sample_vectors(found, count * SAMPLES), count)
        if centroids is None or len(centroids) < 2:
            yield from _compare(found, similarity)
        else:
            children = [work / f"{files + number:06d}.arrow" for number in range(len(centroids))]
            files += len(children)
            distribute(found, centroids, children)
            pending += [([str(child)], depth + 1) for child in reversed(children)]
        if depth:
            Path(found[0]).unlink()


def _read(paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with pa.OSFile(path) as source:  # mapped pages would count as memory of the process
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def _count(paths: Sequence[str]) -> int:
    """Return the number of rows of *paths*, without reading the embeddings."""
    rows = 0
    for path in paths:
        with pa.memory_map(path) as source:
            reader = pa.ipc.open_file(source)
            rows += sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))
    return rows


def _vectors(batch: pa.RecordBatch | pa.Table) -> Vectors:
    """Return the embeddings of *batch*, float16 [rows, width]."""
    if not batch.num_rows:
        return np.empty((0, 0), np.float16)
    return np.frombuffer(b"".join(batch["embedding"].to_pylist()), np.float16).reshape(batch.num_rows, -1)


def sample_vectors(paths: Sequence[str], count: int) -> Vectors:
    """Return about *count* embeddings of distinct images, pseudorandom but always the same."""
    end = f"{min((1 << 32) * count // max(1, _count(paths)), (1 << 32) - 1):08x}"
    tables = [pa.Table.from_batches([batch]).filter(pc.less(batch["sha256"], end)) for batch in _read(paths)]
    table = pa.concat_tables(tables).sort_by([("sha256", "ascending"), ("key", "ascending")])
    return _vectors(table.take(_starts(table["sha256"])))


def _starts(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the position of the first of each run of equal *values*."""
    ends = pc.run_end_encode(values.combine_chunks()).run_ends.to_numpy().astype(np.int64)
    return np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]


def find_centroids(sample: Vectors, count: int) -> Vectors:
    """Return up to *count* centroids, float16 [centroids, width], by k-means on the *sample* of unit vectors.

    The first centroids are the first vectors of the sample.
    """
    if not len(sample):
        return sample
    centroids = np.unique(sample[:count], axis=0)
    for _ in range(_ITERATIONS):
        nearest = _assign(sample, centroids)
        order = np.argsort(nearest, kind="stable")
        used, starts, sizes = np.unique(nearest[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(sample[order].astype(np.float64), starts)
        means = (sums / sizes[:, None]).astype(np.float16).astype(np.float64)
        lengths = np.sqrt((means * means).sum(axis=1, keepdims=True))
        centroids = centroids.copy()
        centroids[used] = np.where(lengths > 0, means / np.maximum(lengths, 1e-9), means).astype(np.float16)
    return centroids


def _assign(vectors: Vectors, centroids: Vectors) -> npt.NDArray[np.int64]:
    """Return the number of the nearest centroid for each of *vectors*.

    Products of float16 are multiples of 2**-48, and their sum is at most 1: float64 has room for any order.
    """
    if not len(centroids):
        return np.zeros(len(vectors), np.int64)
    columns = centroids.astype(np.float64).T
    parts = [
        (vectors[start : start + BATCH].astype(np.float64) @ columns).argmax(axis=1)
        for start in range(0, len(vectors), BATCH)
    ]
    return np.concatenate(parts)


def distribute(paths: Sequence[str], centroids: Vectors, children: Sequence[Path]) -> None:
    """Write each row of *paths* to the file in *children* of its nearest centroid; later files can remain empty."""
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_file(str(child), EMBEDDINGS)) for child in children]
        for batch in _read(paths):
            if not batch.num_rows:
                continue
            nearest = _assign(_vectors(batch), centroids)
            order = np.argsort(nearest, kind="stable")
            used, starts, sizes = np.unique(nearest[order], return_index=True, return_counts=True)
            ordered = batch.take(order)
            for child, start, size in zip(used, starts, sizes, strict=True):
                writers[child].write_batch(ordered.slice(start, size))


def _compare(paths: Sequence[str], similarity: float) -> Iterator[pa.RecordBatch]:
    """Yield the duplicates in one cluster, `_MAX_CLUSTER_ROWS` rows at a time."""
    retained = _Retained(similarity)
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in _read(paths):
        for start in range(0, batch.num_rows, _MAX_CLUSTER_ROWS):
            part = batch.slice(start, _MAX_CLUSTER_ROWS)
            if rows + part.num_rows > _MAX_CLUSTER_ROWS:
                yield from retained.add(pa.Table.from_batches(pending))
                pending, rows = [], 0
            pending.append(part)
            rows += part.num_rows
    if rows:
        yield from retained.add(pa.Table.from_batches(pending))


class _Retained:
    """The retained images of a cluster, at most twice `_MAX_CLUSTER_ROWS`; beyond, the search begins again."""

    def __init__(self, similarity: float) -> None:
        self._similarity = similarity
        self._uids: list[str] = []
        self._vectors: Vectors = np.empty((0, 0), np.float16)

    def add(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        """Compare the rows of *table* with the retained images and with each other; yield the duplicates."""
        images = _images(table)
        vectors = _vectors(images)
        count = len(self._uids) if len(self._uids) <= _MAX_CLUSTER_ROWS else 0
        width = vectors.shape[1]
        self._uids = self._uids[:count]
        self._vectors = np.concatenate([self._vectors.reshape(-1, width)[:count], np.empty_like(vectors)])
        keys, uids = images["key"].to_pylist(), images["uid"].to_pylist()
        rows = []
        for start in range(0, len(vectors), _BLOCK):
            block = vectors[start : start + _BLOCK]
            for number, (of, value) in self._find(block, uids[start : start + _BLOCK]).items():
                rows.append({"key": keys[start + number], "uid": uids[start + number], "duplicate_of": of})
                rows[-1]["similarity"] = value
        yield pa.RecordBatch.from_pylist(rows, FOUND)

    def _find(self, block: Vectors, uids: Sequence[str]) -> dict[int, tuple[str, float]]:
        """Return the duplicates in *block* by number: the uid of the retained image, and their similarity.

        Retains the other images.
        """
        found: dict[int, tuple[str, float]] = {}
        count = len(self._uids)
        if count:
            nearest, values = _search(self._vectors[:count], block, 1)
            for number in np.flatnonzero(values[:, 0] >= self._similarity).tolist():
                found[number] = self._uids[nearest[number, 0]], float(values[number, 0])
        rest = [number for number in range(len(block)) if number not in found]
        if not rest:
            return found
        nearest, values = _search(block[rest], block[rest], len(rest))
        retained: set[int] = set()  # positions in `rest`
        for position, number in enumerate(rest):
            similar = np.flatnonzero(values[position] >= self._similarity).tolist()
            rank = next((rank for rank in similar if int(nearest[position, rank]) in retained), None)
            if rank is None:
                retained.add(position)
                self._vectors[len(self._uids)] = block[number]
                self._uids.append(uids[number])
            else:
                found[number] = uids[rest[nearest[position, rank]]], float(values[position, rank])
        return found


def _images(table: pa.Table) -> pa.Table:
    """Return the first row by key of each image in *table*, in the order of comparison."""
    table = table.sort_by([("sha256", "ascending"), ("key", "ascending")])
    starts = _starts(table["sha256"])
    best = np.minimum.reduceat(table["priority"].to_numpy(), starts)
    firsts = table.take(starts).set_column(EMBEDDINGS.get_field_index("priority"), "priority", pa.array(best))
    return firsts.sort_by([("priority", "ascending"), ("key", "ascending")])


def _search(retained: Vectors, block: Vectors, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the *count* nearest of *retained* for each vector of *block*, and their cosines, each [rows, count].

    The nearest come first.
    """
    from usearch.index import search

    matches = search(retained, block, count, "cos", exact=True, threads=1)
    shape = (len(block), count)
    values = np.round(1 - matches.distances.astype(np.float64), _DECIMALS)
    return matches.keys.astype(np.int64).reshape(shape), values.reshape(shape)
