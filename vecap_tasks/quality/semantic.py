"""The search for semantic duplicates of a crawl: images with similar CLIP embeddings, in steps that workers share.

The method is that of SemDeDup (Abbas et al., 2023): exact search within clusters of embeddings (`clusters.py`). Pairs
in different clusters are not found. A crawl of more than `_CELL_ROWS` rows is first distributed over cells, one group
of shards at a time. A worker then divides a cell into clusters on its disk. Results do not depend on workers, threads
or the order of steps.
"""

# ruff: noqa: S608 - the queries contain only numbers and names of this package

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vecap_tasks.core.intermediate import (
    RECORD,
    IndexedUploads,
    fetch,
    fetch_intermediate,
    put_recorded,
    read_index,
    recorded_file,
)
from vecap_tasks.core.store import Store
from vecap_tasks.core.tables import scan, write_rows, write_sorted
from vecap_tasks.errors import VecapError
from vecap_tasks.quality.clip_scores import Embedded
from vecap_tasks.quality.clusters import (
    BATCH,
    EMBEDDINGS,
    FOUND,
    SAMPLES,
    distribute,
    find_centroids,
    find_duplicates,
    sample_vectors,
)

if TYPE_CHECKING:
    import duckdb

PREFIX = "semantic-"  # of the names of the steps
FILE = "semantic_duplicates.parquet"
_CENTROIDS = "centroids.npy"
_CELL_ROWS = 1 << 20  # rows that one worker compares
_MAX_CELLS = 512  # files that a step writes at once
_SAMPLE_SHARDS = 256


@dataclass(frozen=True, slots=True)
class SemanticSearch:
    """The search in one crawl for images with at least the cosine *similarity*.

    *rows* maps the crawl shards to their numbers of rows, and *embeddings* to the recorded files with their embeddings
    (EMBEDDINGS). Other intermediate files are in *folder* of the store.
    """

    store: Store
    folder: str
    rows: Mapping[str, int]
    embeddings: Mapping[str, str]
    similarity: float

    def preparations(self) -> list[str]:
        """Return the unfinished parts of the next step, in order; none if the search is finished."""
        files = set(self.store.files(self.folder))
        cells = [cell for cell in range(self._cells) if f"{self._result(cell)}{RECORD}" not in files]
        if cells and self._cells > 1:
            if f"{_CENTROIDS}{RECORD}" not in files:
                return [f"{PREFIX}centroids"]
            groups = [group for group in self._groups() if read_index(self.store, f"{self.folder}/{group}") is None]
            if groups:
                return [f"{PREFIX}{group}" for group in groups]
        return [f"{PREFIX}cell-{cell}" for cell in cells]

    def prepare(self, part: str, work: Path) -> None:
        """Do one of the `preparations` in the empty folder *work*."""
        kind, _, rest = part.removeprefix(PREFIX).partition("-")
        if kind == "centroids":
            self._choose_centroids(work)
        elif kind == "cell":
            self._search_cell(int(rest), work)
        else:
            self._distribute(f"{kind}-{rest}", work)

    def fetch(self, folder: Path) -> list[str]:
        """Return local paths to the results (FOUND) of the finished search."""
        names = [f"{self.folder}/{self._result(cell)}" for cell in range(self._cells)]
        return fetch_intermediate(self.store, names, folder)

    @property
    def _cells(self) -> int:
        return max(1, min(_MAX_CELLS, -(-sum(self.rows.values()) // _CELL_ROWS)))

    def _result(self, cell: int) -> str:
        return f"cell-{cell:04d}.parquet"

    def _groups(self) -> dict[str, list[str]]:
        """Return adjacent shards with up to `_CELL_ROWS` rows together, named by their first and last shard."""
        groups: list[list[str]] = []
        rows = 0
        for shard, count in self.rows.items():
            rows += count
            if groups and rows <= _CELL_ROWS:
                groups[-1].append(shard)
            else:
                groups.append([shard])
                rows = count
        return {f"{group[0]}-{group[-1]}": group for group in groups}

    def _open(self, shards: Sequence[str], folder: Path) -> list[str]:
        return fetch_intermediate(self.store, [self.embeddings[shard] for shard in shards], folder)

    def _choose_centroids(self, work: Path) -> None:
        """Publish the centroids of the cells, from a sample of shards at even distances."""
        shards = list(self.rows)
        shards = shards[:: -(-len(shards) // _SAMPLE_SHARDS)]
        sample = sample_vectors(self._open(shards, work / "embeddings"), self._cells * SAMPLES)
        np.save(work / _CENTROIDS, find_centroids(sample, self._cells))
        put_recorded(self.store, f"{self.folder}/{_CENTROIDS}", work / _CENTROIDS)

    def _distribute(self, group: str, work: Path) -> None:
        """Publish the embeddings of a *group* of shards in one file per cell."""
        centroids = np.load(recorded_file(self.store, f"{self.folder}/{_CENTROIDS}").local(work))
        (work / "cells").mkdir()
        paths = [work / "cells" / f"{group}-{cell:04d}.arrow" for cell in range(self._cells)]
        distribute(self._open(self._groups()[group], work / "embeddings"), centroids, paths)
        with IndexedUploads(self.store, f"{self.folder}/{group}") as uploads:
            for path in paths:
                uploads.add(path)
            uploads.finish({})

    def _search_cell(self, cell: int, work: Path) -> None:
        if self._cells == 1:
            paths = self._open(list(self.rows), work / "embeddings")
        else:
            files = []
            for group in self._groups():
                index = read_index(self.store, f"{self.folder}/{group}")
                if index is None:
                    raise VecapError(f"{self.folder}/{group} was removed during the run; run the same command again")
                files.append(index.files[f"{group}-{cell:04d}.arrow"])
            paths = fetch(files, work / "embeddings")
        (work / "clusters").mkdir()
        path = work / self._result(cell)
        found = pa.Table.from_batches(find_duplicates(paths, self.similarity, work / "clusters"), FOUND)
        write_rows(found.sort_by("key").to_batches(), FOUND, path)
        put_recorded(self.store, f"{self.folder}/{path.name}", path)


def write_embeddings(embedded: Embedded, judged: str, path: Path) -> None:
    """Write the embeddings of one shard to the new file *path*, as EMBEDDINGS.

    *judged* is a local path to the rows of the shard after the rules about single rows (`write_judged`).
    """
    rows = embedded.rows
    table = pq.read_table(judged, columns=["key", "reasons", "alttext_problem"])
    rejected = pc.greater(pc.list_value_length(table["reasons"]), 0)
    priority = pc.if_else(rejected, 2, pc.cast(pc.is_valid(table["alttext_problem"]), pa.int64()))
    priorities = dict(zip(table["key"].to_pylist(), priority.to_pylist(), strict=True))
    columns = [rows["key"], rows["uid"], rows["sha256"]]
    columns += [[priorities[key] for key in rows["key"].to_pylist()], embedded.vectors]
    table = pa.table(dict(zip(EMBEDDINGS.names, columns, strict=True)), EMBEDDINGS)
    with pa.ipc.new_file(str(path), EMBEDDINGS) as writer:
        writer.write_table(table, max_chunksize=BATCH)


def add_duplicates(connection: duckdb.DuckDBPyConnection, crawl: str, found: Sequence[str], path: Path) -> None:
    """Create the view `duplicates` of those of the view *crawl* (DUPLICATES) and of the files *found* (FOUND).

    Also writes the rows of *found*, sorted by key, to *path*.
    """
    write_sorted(connection, f"SELECT {', '.join(FOUND.names)} FROM {scan(found)}", "key", path)
    connection.execute(f"""
        CREATE VIEW duplicates AS SELECT key, uid, duplicate_of, kind, version FROM {crawl}
        UNION ALL SELECT key, uid, duplicate_of, 'semantic', NULL FROM {scan([str(path)])}""")
