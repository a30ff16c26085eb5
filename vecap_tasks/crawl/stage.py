"""The stage `crawl`: writes shards of images with AltText from a source; every row has a status."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.config import Config, SiteSource, UrlSource
from vecap_tasks.core.intermediate import RECORD, check_intermediate, put_record, put_recorded, recorded_file
from vecap_tasks.core.manifest import FileEntry, Input, ShardOutput, ShardResult
from vecap_tasks.core.stage import Check, Stage
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.errors import CorruptError, PermanentError, VecapError, format_error

# Heavy imports are local: every stage loads this class for its fingerprint, also on machines without crawl
# dependencies. Processes that download never import DuckDB, which saves memory.
if TYPE_CHECKING:
    from vecap_tasks.crawl.candidates import Source
    from vecap_tasks.crawl.dedup import PublishedCrawl
    from vecap_tasks.crawl.http.fetcher import FetcherThread
    from vecap_tasks.crawl.previous_crawl import PreviousCrawl
    from vecap_tasks.crawl.sources.link import ByteRange, Stats

log = logging.getLogger(__name__)

_CANDIDATES = "candidates.parquet"
_DUPLICATES = "duplicates.parquet"
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

    Preparation reads the source, part by part. The candidates are created when the shards are first requested. With
    `crawl.retry_failed` the candidates of the earlier crawl are reused and no source is read.
    """

    name: ClassVar[str] = "crawl"
    revision: ClassVar[int] = 5  # 5: jpeg_sha256 and a faster perceptual hash
    rates: ClassVar[tuple[str, ...]] = ("success",)

    def inputs(self) -> list[Input]:
        retried = [] if self._previous is None else [self._previous.input]
        published = [Input("version", crawl.version, crawl.digest) for crawl in self._published]
        return [*self._stats.inputs, *retried, *published]

    def reads(self) -> list[RecordedFile]:
        """Return the candidates, once they exist. Raises CorruptError if they have no record."""
        name = f"{self.folder}/{_CANDIDATES}"
        if not self.store.exists(name):
            return []
        try:
            return [recorded_file(self.store, name, f"{self.folder}/{_LINKS}/{_CANDIDATES}")]
        except FileNotFoundError as error:
            raise CorruptError(f"{name} has no record; delete it and run the same command again") from error

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
        if self._previous is not None or self.store.exists(f"{self.folder}/{_CANDIDATES}"):
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
        from vecap_tasks.crawl.candidates import shard_names

        return shard_names(self._footer.num_rows, self.config.crawl.shard_size)

    def process(self, shard: str, work: Path) -> ShardOutput:
        from vecap_tasks.crawl.shard_images import SUCCESS, Spool, download_all, image_requests
        from vecap_tasks.crawl.shards import write_shard

        candidates = self._rows(int(shard))
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
        from vecap_tasks.crawl.dedup import write_duplicates

        tables = [f"{self.folder}/{result.shard}.parquet" for result in results]
        config = self.config.crawl.duplicates
        duplicates, counters = write_duplicates(self.store, tables, self._published, config, work, work / _DUPLICATES)
        with self.store.local(f"{self.folder}/{_CANDIDATES}") as candidates:
            shutil.copyfile(candidates, work / _CANDIDATES)
        files = {_CANDIDATES: self._footer.num_rows, _DUPLICATES: duplicates}
        return ShardOutput(files, self._stats.counters | counters)

    @cached_property
    def _published(self) -> list[PublishedCrawl]:
        """The published crawls to search for duplicates, as of first use."""
        from vecap_tasks.crawl.dedup import published_crawls

        return published_crawls(self.store, self.version) if self.config.crawl.duplicates.earlier else []

    def _rows(self, shard: int) -> pa.Table:
        with self.store.open(f"{self.folder}/{_CANDIDATES}") as stream:
            return pq.ParquetFile(stream).read_row_group(shard)

    @cached_property
    def _fetcher(self) -> FetcherThread:
        from vecap_tasks.crawl.http.fetcher import FetcherThread

        return FetcherThread(self.config.crawl.fetch)

    @property
    def _stats(self) -> Stats:
        from vecap_tasks.crawl.candidates import read_stats

        return read_stats(self._footer)

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

    def _recorded_links(self) -> list[str]:
        folder = f"{self.folder}/{_LINKS}"
        names = [name for name in self.store.files(folder) if name.endswith(".parquet")]
        return [f"{folder}/{name}" for name in names if name != _CANDIDATES]

    @cached_property
    def _footer(self) -> Any:
        """The footer of the candidates table, which is created if missing. Concurrent creation is safe."""
        from vecap_tasks.crawl.candidates import write_candidates

        name = f"{self.folder}/{_CANDIDATES}"
        if not self.store.exists(name) and self._previous is not None:
            with self.store.workspace() as work:
                (work / _CANDIDATES).write_bytes(self._previous.read(_CANDIDATES))
                self._create_candidates(work / _CANDIDATES)
        elif not self.store.exists(name):
            for part in self.preparations():
                self.prepare(part)
            tables = [self._links_path(part) for part in self._source.parts()]
            check_intermediate(self.store, self._recorded_links())
            with self.store.workspace() as work:
                crawl = self.config.crawl
                kept = bool(crawl.source.kept_columns)
                path = write_candidates(self.store, tables, crawl.shard_size, work, kept=kept)
                self._create_candidates(path)
        with self.store.open(name) as stream:
            return pq.read_metadata(stream)

    def _create_candidates(self, path: Path) -> None:
        """Publish the local file *path* as the candidates, after their record; equal links give equal bytes."""
        entry = FileEntry.from_file(path.parent, path.name, None)
        put_record(self.store, f"{self.folder}/{_LINKS}/{_CANDIDATES}", entry)
        self.store.create(f"{self.folder}/{_CANDIDATES}", path.read_bytes())


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
