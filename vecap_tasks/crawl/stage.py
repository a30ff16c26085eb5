"""The stage `crawl`: writes shards of images with AltText from a source; every row has a status."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import Config, SiteSource, UrlSource
from vecap_tasks.core.intermediate import (
    RECORD,
    Index,
    IndexedUploads,
    fetch_intermediate,
    put_recorded,
    read_index,
    receipted_files,
)
from vecap_tasks.core.manifest import Input, ShardOutput, ShardResult
from vecap_tasks.core.stage import Check, Stage
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.errors import PermanentError, VecapError, format_error

# Heavy imports are local: every stage loads this class for its fingerprint, also on machines without crawl
# dependencies. Processes that download never import DuckDB, which saves memory.
if TYPE_CHECKING:
    from vecap_tasks.crawl.candidates import Source
    from vecap_tasks.crawl.hash_index import PublishedCrawl
    from vecap_tasks.crawl.http.fetcher import FetcherThread
    from vecap_tasks.crawl.previous_crawl import PreviousCrawl
    from vecap_tasks.crawl.sources.link import ByteRange, Stats

log = logging.getLogger(__name__)

_CANDIDATES = "_candidates"  # one table per shard
_DUPLICATES = "_duplicates"  # steps of the search for duplicates
_FIRST_PARTS = 3  # of the source, to read before the crawl
_FORMATS = {"urls": "tables", "webdataset": "tars", "warc": "WARC files", "wat": "WAT files"}
_KINDS = {  # of crawl.source, by file extension
    **dict.fromkeys(("csv", "tsv", "parquet", "json", "jsonl", "ndjson", "txt"), "urls"),
    "tar": "webdataset",
    "warc": "warc",
    "arc": "warc",
    "wat": "wat",
}
_LINKS = "_links"  # one links table per part of the source


class Crawl(Stage):
    """A shard is `crawl.shard_size` rows of the candidates.

    Preparation reads the source, part by part. The candidates are created, one table per shard, when the shards are
    first requested. With `crawl.retry_failed` the rows of the earlier crawl are the candidates and no source is read.
    """

    name: ClassVar[str] = "crawl"
    revision: ClassVar[int] = 6  # 6: no table of all candidates, a faster perceptual hash
    rates: ClassVar[tuple[str, ...]] = ("success",)

    def inputs(self) -> list[Input]:
        retried = [] if self._previous is None else [self._previous.input]
        published = [Input("version", crawl.version, crawl.digest) for crawl in self._published]
        return [*self._stats.inputs, *retried, *published]

    def reads(self) -> list[RecordedFile]:
        """Return the candidates, once they exist."""
        index = read_index(self.store, self._candidates_folder)
        return [] if index is None else list(index.files.values())

    def shard_reads(self, shard: str) -> list[RecordedFile]:
        return []  # `process` compares what it reads

    def checks(self) -> list[Check]:
        # The parts of a site are its pages, which only the crawl itself may request.
        if self.config.crawl.retry_failed is not None or isinstance(self.config.crawl.source, SiteSource):
            return []
        section = self.config.crawl.source
        checks: list[Check] = []
        if isinstance(section, UrlSource):
            folders = partial(_check_folders, self.config, section.allow_folders, self.version.interval)
            checks.append(("crawl.source.allow_folders", folders))
        setting = "path" if hasattr(section, "path") else "paths"
        return [*checks, (f"crawl.source.{setting}", lambda: _check_source(self.config, self._source))]

    def preparations(self) -> list[str]:
        if self._previous is not None or read_index(self.store, self._candidates_folder) is not None:
            return []
        done = set(self.store.files(f"{self.folder}/{_LINKS}"))
        records = {part: PurePosixPath(f"{self._links_path(part)}{RECORD}").name for part in self._source.parts()}
        return [part for part, record in records.items() if record not in done]

    def prepare(self, part: str) -> None:
        from vecap_tasks.crawl.candidates import archived_images_path, extract

        with self.store.workspace() as work:
            path = work / "links.parquet"
            extract(self._source, part, path)
            links = self._links_path(part)
            if archived_images_path(path).exists():
                archived = str(archived_images_path(PurePosixPath(links)))
                put_recorded(self.store, archived, archived_images_path(path))
            put_recorded(self.store, links, path)  # last: marks the part as done

    def shards(self) -> list[str]:
        if self._previous is not None:
            return self._previous.shards
        return [name.removesuffix(".parquet") for name in self._candidates.files]

    def process(self, shard: str, work: Path) -> ShardOutput:
        from vecap_tasks.crawl.shard_images import SUCCESS, Spool, download_all, image_requests
        from vecap_tasks.crawl.shards import write_shard

        candidates = self._rows(shard)
        with closing(Spool(work / "spool")) as spool:
            requests = image_requests(candidates)
            reused = self._previous.outcomes(shard, spool) if self._previous else [None] * len(requests)
            pending = [request for request, outcome in zip(requests, reused, strict=True) if outcome is None]
            results = self._fetcher.run(
                lambda fetcher: download_all(pending, self.config, fetcher, spool, self._read_image)
            )
            outcomes = [outcome or results[request] for request, outcome in zip(requests, reused, strict=True)]
            output = write_shard(shard, candidates, outcomes, spool, work)
        if self._previous is None:
            return output
        recovered = sum(results[request].status == SUCCESS for request in pending)
        return replace(output, counters={**output.counters, "retried": len(pending), "recovered": recovered})

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        from vecap_tasks.crawl.candidates import format_stats
        from vecap_tasks.crawl.dedup import FILE, write_duplicates
        from vecap_tasks.crawl.hash_index import CrawlTables
        from vecap_tasks.crawl.previous_crawl import CANDIDATES_FILE

        tables = {f"{self.folder}/{result.shard}.parquet" for result in results}
        files = receipted_files(self.store, self.folder, self.name, results)
        rows = sum(entry.rows or 0 for result in results for entry in result.files if entry.path.endswith(".parquet"))
        found = write_duplicates(
            self.store,
            CrawlTables(tuple(file for file in files if file.name in tables), rows),
            self._published,
            self.config.crawl.duplicates,
            self.config.crawl.memory_limit,
            f"{self.folder}/{_DUPLICATES}",
            work,
        )
        body = json.dumps(format_stats(self._stats), indent=1, sort_keys=True, ensure_ascii=False)
        (work / CANDIDATES_FILE).write_text(body + "\n", encoding="utf-8")
        written = {CANDIDATES_FILE: None, FILE: found.rows}
        # The index repeats columns of the tables, so it is not part of the crawl's digest.
        return ShardOutput(written, self._stats.counters | found.counters, attachments=found.index)

    @cached_property
    def _published(self) -> list[PublishedCrawl]:
        """The published crawls to search for duplicates, as of first use."""
        from vecap_tasks.crawl.hash_index import published_crawls

        return published_crawls(self.store, self.version) if self.config.crawl.duplicates.earlier else []

    def _rows(self, shard: str) -> pa.Table:
        """Return the candidates of *shard*. Raises CorruptError if the file differs from its record."""
        if self._previous is not None:
            return self._previous.candidates(shard)
        return pq.read_table(io.BytesIO(self._candidates.files[f"{shard}.parquet"].read()))

    @cached_property
    def _fetcher(self) -> FetcherThread:
        from vecap_tasks.crawl.http.fetcher import FetcherThread

        return FetcherThread(self.config.crawl.fetch)

    @property
    def _stats(self) -> Stats:
        from vecap_tasks.crawl.candidates import parse_stats

        return self._previous.stats if self._previous is not None else parse_stats(self._candidates.body)

    @cached_property
    def _previous(self) -> PreviousCrawl | None:
        from vecap_tasks.crawl.previous_crawl import open_previous

        return open_previous(self.store, self.config, self.version.interval)

    @cached_property
    def _source(self) -> Source:
        from vecap_tasks.crawl.candidates import open_source

        return open_source(self.config, self.version.interval)

    @cached_property
    def _read_image(self) -> Callable[[ByteRange], bytes]:
        from vecap_tasks.crawl.shard_images import image_reader

        return image_reader(self.config, self.version.interval)

    def _links_path(self, part: str) -> str:
        """Return the store path of the links of *part*; part names may not be valid file names."""
        return f"{self.folder}/{_LINKS}/{hashlib.sha256(part.encode()).hexdigest()[:16]}.parquet"

    @property
    def _candidates_folder(self) -> str:
        return f"{self.folder}/{_CANDIDATES}"

    @cached_property
    def _candidates(self) -> Index:
        """The candidates of each shard, which are created if missing. Concurrent creation is safe."""
        if read_index(self.store, self._candidates_folder) is None:
            self._create_candidates()
        index = read_index(self.store, self._candidates_folder)
        if index is None:
            raise VecapError(f"{self._candidates_folder} was removed during the run; run the same command again")
        return index

    def _create_candidates(self) -> None:
        """Write the candidates of all links, shard by shard; equal links give equal bytes."""
        from vecap_tasks.crawl.candidates import archived_images_path, format_stats, write_candidates
        from vecap_tasks.crawl.sources.link import Stats

        for part in self.preparations():
            self.prepare(part)
        links = [self._links_path(part) for part in self._source.parts()]
        folder = f"{self.folder}/{_LINKS}"
        existing = {f"{folder}/{name}" for name in self.store.files(folder)}
        paths = [str(archived_images_path(PurePosixPath(name))) for name in links]
        archived = [name for name in paths if name in existing]
        crawl, stats = self.config.crawl, Stats(Counter())
        with self.store.workspace() as work, IndexedUploads(self.store, self._candidates_folder) as uploads:
            (work / "shards").mkdir()
            candidates = write_candidates(
                self.store,
                fetch_intermediate(self.store, links, work / "links"),
                fetch_intermediate(self.store, archived, work / "archived"),
                crawl.shard_size,
                work / "shards",
                kept=bool(crawl.source.kept_columns),
                stats=stats,
            )
            for path in candidates:
                uploads.add(path)
            uploads.finish(format_stats(stats))


def _check_source(config: Config, source: Source) -> None:
    """Find the source's files and read rows or pages of the first ones, up to a usable one. Raises VecapError."""
    from vecap_tasks.crawl.sources.link import Stats
    from vecap_tasks.crawl.sources.url_list import UrlFiles
    from vecap_tasks.crawl.sources.warc import WarcFiles

    section = config.crawl.source
    parts = source.parts()
    _warn_of_store(config, parts)
    problems, stats = [], Stats()  # `items` reads no more than the first page
    for name in parts[:_FIRST_PARTS]:
        try:
            if isinstance(source, UrlFiles):
                problem = source.first_problem(name)
            else:
                read = source.items if isinstance(source, WarcFiles) else source.read
                problem = "" if next(iter(read(name, stats)), None) is None else None
        except VecapError as error:
            raise _other_kind(section.kind, name, error) from error
        if problem is None:
            return
        problems.append(problem)
    if len(parts) > _FIRST_PARTS:  # others may have images
        return
    reasons = ", ".join(f"{count:,} {key}" for key, count in sorted(stats.counters.items()))
    setting = "path" if hasattr(section, "path") else "paths"
    raise _other_kind(
        section.kind,
        parts[0],
        PermanentError(
            problems[0]
            or f"{parts[0]} has no usable image ({reasons or 'no rows'}); correct its files, or crawl.source.{setting}"
        ),
    )


def _warn_of_store(config: Config, parts: list[str]) -> None:
    """Warn if a pattern among the source's `paths` matches files that the crawl itself writes."""
    own = Path(config.resolve(config.root).removeprefix("file://"), config.dataset)
    for name in parts if hasattr(config.crawl.source, "paths") else ():
        if own in Path(config.resolve(name)).parents:
            log.warning("%s is in the store (root: %s); change crawl.source.paths, or root", name, config.root)
            return


def _other_kind(kind: str, name: str, error: VecapError) -> VecapError:
    """Return *error*; if the extension of the file *name* is that of another kind of source, the result says so."""
    other = _KINDS.get(name.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2])
    if other in (None, kind) or kind not in _FORMATS:
        return error
    return PermanentError(
        f"`kind: {kind}` reads {_FORMATS[kind]}, use `kind: {other}` for {name}; {format_error(error)}"
    )


def _check_folders(config: Config, folders: list[str], interval: str) -> None:
    """Raise PermanentError for a folder that does not exist."""
    for folder in folders:
        path = config.resolve(folder.removeprefix("file://"), interval=interval)
        if not Path(path).is_dir():
            raise PermanentError(f"folder {folder} does not exist on this machine ({path}); create it, or remove it")
