"""The stage `crawl`: from a source of pages to shards of images with AltText, every row with what became of it."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.crawl.candidates import Origin, read_origin, shard_names, write_candidates
from vecap_tasks.crawl.download import Outcome, Spool, download_all
from vecap_tasks.crawl.duplicates import write_duplicates
from vecap_tasks.crawl.shards import write_shard
from vecap_tasks.dataset.manifest import Input
from vecap_tasks.dataset.stage import Made, ShardResult, Stage

_CANDIDATES = "candidates.parquet"
_DUPLICATES = "duplicates.parquet"


class Crawl(Stage):
    """A shard is `crawl.shard_size` rows of the candidates, which are made when the shards are first asked for."""

    name: ClassVar[str] = "crawl"
    rates: ClassVar[tuple[str, ...]] = ("success",)

    def inputs(self) -> list[Input]:
        return list(self._origin.inputs)

    def shards(self) -> list[str]:
        return shard_names(self._footer.num_rows, self.config.crawl.shard_size)

    def process(self, shard: str, work: Path) -> Made:
        candidates = self._rows(int(shard))
        with closing(Spool(work / "spool")) as spool:
            outcomes = self._download(candidates, spool)
            return write_shard(shard, candidates, outcomes, spool, work)

    def finish(self, results: list[ShardResult], work: Path) -> Made:
        tables = [f"{self.folder}/{result.shard}.parquet" for result in results]
        duplicates = write_duplicates(self.store, tables, work, work / _DUPLICATES)
        with self.store.local(f"{self.folder}/{_CANDIDATES}") as made:
            shutil.copyfile(made, work / _CANDIDATES)
        files = {_CANDIDATES: self._footer.num_rows, _DUPLICATES: duplicates}
        return Made(files, {**self._origin.counters, "duplicates": duplicates})

    def _download(self, candidates: pa.Table, spool: Spool) -> dict[str, Outcome]:
        return asyncio.run(download_all(candidates["url"].to_pylist(), self.config.crawl, spool))

    def _rows(self, shard: int) -> pa.Table:
        with self.store.open(f"{self.folder}/{_CANDIDATES}") as stream:
            return pq.ParquetFile(stream).read_row_group(shard)

    @property
    def _origin(self) -> Origin:
        return read_origin(self._footer)

    @cached_property
    def _footer(self) -> Any:
        """The footer of the candidates, which are made if they are not there. Of two who make them one wins."""
        name = f"{self.folder}/{_CANDIDATES}"
        if not self.store.exists(name):
            with self.store.workspace() as work:
                made = write_candidates(self.config, self.version.interval, work)
                self.store.create(name, made.read_bytes())
        with self.store.open(name) as stream:
            return pq.read_metadata(stream)
