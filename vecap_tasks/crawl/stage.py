"""The stage `crawl`: from a source of pages to shards of images with AltText, every row with what became of it."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.core.manifest import Input, ShardOutput, ShardResult
from vecap_tasks.core.stage import Stage

# What reads, fetches and decodes is imported where it is used: every stage loads this class for its fingerprint, on
# machines without a crawler. Processes that fetch never import DuckDB, which leaves them more memory.
if TYPE_CHECKING:
    from vecap_tasks.crawl.candidates import Source
    from vecap_tasks.crawl.dedup import PublishedCrawl
    from vecap_tasks.crawl.http.fetcher import Client
    from vecap_tasks.crawl.previous_crawl import PreviousCrawl
    from vecap_tasks.crawl.sources.link import Stats

_CANDIDATES = "candidates.parquet"
_DUPLICATES = "duplicates.parquet"
_LINKS = "_links"  # a table for each part of the source, from which the candidates are made


class Crawl(Stage):
    """A shard is `crawl.shard_size` rows of the candidates.

    To prepare is to read the source, part by part; the candidates are made when the shards are first asked for.
    Where failed rows of an earlier crawl are tried again, its candidates are taken over, and no source is read.
    """

    name: ClassVar[str] = "crawl"
    revision: ClassVar[int] = 3  # JPEGs are decoded to other sizes, and filtered another way
    rates: ClassVar[tuple[str, ...]] = ("success",)

    def inputs(self) -> list[Input]:
        retried = [] if self._earlier is None else [self._earlier.input]
        published = [Input("version", one.version, one.digest) for one in self._published]
        return [*self._stats.inputs, *retried, *published]

    def preparations(self) -> list[str]:
        if self._earlier is not None or self.store.exists(f"{self.folder}/{_CANDIDATES}"):
            return []
        made = set(self.store.files(f"{self.folder}/{_LINKS}"))
        return [part for part in self._source.parts() if PurePosixPath(self._links(part)).name not in made]

    def prepare(self, part: str) -> None:
        from vecap_tasks.crawl.candidates import archived_images_of, extract

        with self.store.workspace() as work:
            path = work / "links.parquet"
            extract(self._source, part, path)
            links = self._links(part)
            if archived_images_of(path).exists():
                self.store.upload(str(archived_images_of(PurePosixPath(links))), archived_images_of(path))
            self.store.upload(links, path)  # last: a part with links is done

    def shards(self) -> list[str]:
        from vecap_tasks.crawl.candidates import shard_names

        return shard_names(self._footer.num_rows, self.config.crawl.shard_size)

    def process(self, shard: str, work: Path) -> ShardOutput:
        from vecap_tasks.crawl.shard_images import SUCCESS, Spool, download_all, image_requests
        from vecap_tasks.crawl.shards import write_shard

        candidates = self._rows(int(shard))
        with closing(Spool(work / "spool")) as spool:
            wants = image_requests(candidates)
            taken = self._earlier.outcomes(shard, spool) if self._earlier else [None] * len(wants)
            again = [want for want, outcome in zip(wants, taken, strict=True) if outcome is None]
            made = self._client.run(lambda fetcher: download_all(again, self.config, fetcher, spool))
            outcomes = [outcome or made[want] for want, outcome in zip(wants, taken, strict=True)]
            written = write_shard(shard, candidates, outcomes, spool, work)
        if self._earlier is None:
            return written
        recovered = sum(made[want].status == SUCCESS for want in again)
        return replace(written, counters={**written.counters, "retried": len(again), "recovered": recovered})

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        from vecap_tasks.crawl.dedup import write_duplicates

        tables = [f"{self.folder}/{result.shard}.parquet" for result in results]
        config = self.config.crawl.duplicates
        duplicates, counters = write_duplicates(self.store, tables, self._published, config, work, work / _DUPLICATES)
        with self.store.local(f"{self.folder}/{_CANDIDATES}") as made:
            shutil.copyfile(made, work / _CANDIDATES)
        files = {_CANDIDATES: self._footer.num_rows, _DUPLICATES: duplicates}
        return ShardOutput(files, self._stats.counters | counters)

    @cached_property
    def _published(self) -> list[PublishedCrawl]:
        """The crawls that duplicates are looked for in, as they are published when this is first asked."""
        from vecap_tasks.crawl.dedup import published_crawls

        return published_crawls(self.store, self.version) if self.config.crawl.duplicates.earlier else []

    def _rows(self, shard: int) -> pa.Table:
        with self.store.open(f"{self.folder}/{_CANDIDATES}") as stream:
            return pq.ParquetFile(stream).read_row_group(shard)

    @cached_property
    def _client(self) -> Client:
        from vecap_tasks.crawl.http.fetcher import Client

        return Client(self.config.crawl.fetch)

    @property
    def _stats(self) -> Stats:
        from vecap_tasks.crawl.candidates import read_stats

        return read_stats(self._footer)

    @cached_property
    def _earlier(self) -> PreviousCrawl | None:
        from vecap_tasks.crawl.previous_crawl import open_previous

        return open_previous(self.store, self.config, self.version.interval)

    @cached_property
    def _source(self) -> Source:
        from vecap_tasks.crawl.candidates import open_source

        return open_source(self.config, self.version.interval)

    def _links(self, part: str) -> str:
        """Return where the store has the links of *part*, whose name may be no file name."""
        return f"{self.folder}/{_LINKS}/{hashlib.sha256(part.encode()).hexdigest()[:16]}.parquet"

    @cached_property
    def _footer(self) -> Any:
        """The footer of the candidates, which are made if they are not there. Of two who make them one wins."""
        from vecap_tasks.crawl.candidates import write_candidates

        name = f"{self.folder}/{_CANDIDATES}"
        if not self.store.exists(name) and self._earlier is not None:
            self.store.create(name, self._earlier.read(_CANDIDATES))
        elif not self.store.exists(name):
            for part in self.preparations():
                self.prepare(part)
            tables = [self._links(part) for part in self._source.parts()]
            with self.store.workspace() as work:
                made = write_candidates(self.store, tables, self.config.crawl.shard_size, work)
                self.store.create(name, made.read_bytes())
        with self.store.open(name) as stream:
            return pq.read_metadata(stream)
