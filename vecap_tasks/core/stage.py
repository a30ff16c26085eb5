"""The base class of stages. A subclass defines only its shards and how to process them.

reads()   the recorded files that it reads; they are checked before the work starts, in each process before a shard
          reads them (`shard_reads`), and before the commit
prepare() work that must be done before the shards can be named, one part at a time; most stages have none
plan()    the shards that are not finished
run(s)    process one shard; files appear atomically and the receipt last, so a kill loses only that shard
commit()  check that all shards are finished, write files of the whole stage, then the manifest
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from vecap_tasks.config import Config
from vecap_tasks.core.intermediate import Attachments, ReadCheck, receipted_files
from vecap_tasks.core.manifest import (
    NAME,
    RECEIPTS,
    FileEntry,
    Input,
    Manifest,
    ShardOutput,
    ShardResult,
    check_fingerprints,
    fingerprint,
    finished_shards,
    provenance,
    publish,
    read_manifest,
    read_receipt,
    read_receipts,
    total,
)
from vecap_tasks.core.models import forget_hashes
from vecap_tasks.core.stage_records import first_start, record_plan, write_summary
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import RecordedFile, Upstream, check_recorded, without_tars
from vecap_tasks.core.version import Version, is_deleted, list_versions
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.outages import retry_when_full

log = logging.getLogger(__name__)

Check = tuple[str, Callable[[], object]]  # a dotted setting, and a function that raises VecapError for its problem
_MAX_EARLY_CHECK = 1 << 30  # bytes of upstream files to hash before a stage starts: a second or two
STAGES = {
    name: f"vecap_tasks.{name}.stage:{name.title()}"
    for name in ("crawl", "quality", "rewrite", "assemble", "train", "evaluate")
}


def stage_class(name: str) -> type[Stage]:
    """Import and return the class of the stage *name*. Raises VecapError for an unknown name."""
    target = STAGES.get(name)
    if target is None:
        raise VecapError(f"unknown stage {name}; the stages are {', '.join(STAGES)}")
    module, _, attribute = target.partition(":")
    found: type[Stage] = getattr(import_module(module), attribute)
    return found


def load_stage(name: str, config: Config, version: Version) -> Stage:
    """Return the stage *name* of *version*. Raises VecapError for an unknown name."""
    return stage_class(name)(config, version)


class Stage(ABC):
    """One stage of one version. Subclasses define `name` and `upstream`, and implement the abstract methods."""

    name: ClassVar[str]
    upstream: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1  # increased when a code change changes the output bytes
    on_workers: bool = True  # run shards on Dask workers; False: in the calling process
    min_parallel: int = 1  # shards; fewer run in the calling process
    min_parallel_parts: int = 1  # the same for `preparations`
    runs_models: bool = False  # shards need workers with `dask.resources`
    rates: ClassVar[tuple[str, ...]] = ()  # counters to log per second
    keyed: ClassVar[bool] = False  # True: one version may have several, by fingerprint (train, evaluate)

    def __init__(self, config: Config, version: Version) -> None:
        self._stages: dict[str, Stage] = {}  # of this version and configuration; shared between its stages
        self._resolved: dict[str, Upstream] = {}
        self.config = config
        self.version = version
        self.store = Store(config.resolve(config.root))
        self._read_check = ReadCheck()
        # Called between the batches of a shard; False if the task was cancelled.
        self.should_continue: Callable[[], bool] = lambda: True

    def identity(self) -> dict[str, Any]:
        """Return the configuration that decides this stage's output bytes, with the digests of models."""
        return self.config.section(self.name).identity()

    def inputs(self) -> list[Input]:
        """Return this stage's inputs other than upstream stages: sources, models, prompts."""
        return self.loaded()

    def references(self) -> list[str]:
        """Return the names of earlier versions whose files the manifest refers to; most stages have none."""
        return []

    def loaded(self) -> list[Input]:
        """Return the inputs that libraries load, models and prompts; their digests are compared before the commit."""
        return []

    def checks(self) -> list[Check]:
        """Return checks to make before any stage starts, without a server. Each raises VecapError for one problem."""
        return []

    def reads(self) -> list[RecordedFile]:
        """Return the recorded files that this stage reads, except tars, whose images it checks while reading."""
        everything = ((name, self.upstream_manifest(name).files_ending("")) for name in self.upstream)
        return without_tars(file for name, listed in everything for file in self.upstream_files(name, listed))

    def shard_reads(self, shard: str) -> list[RecordedFile]:
        """Return those of `reads` that *shard* reads, or the preparation of this name; by default all."""
        return self.reads()

    @abstractmethod
    def shards(self) -> list[str]:
        """Return the names of all shards, in order. May prepare shared files, idempotently."""

    @abstractmethod
    def process(self, shard: str, work: Path) -> ShardOutput:
        """Write the shard's files into the empty folder *work*: a pure function of inputs and configuration."""

    def preparations(self) -> list[str]:
        """Return the unfinished parts of the work that the shards depend on; most stages have none."""
        return []

    def prepare(self, part: str) -> None:
        """Do one of the `preparations`; idempotent and safe to kill. `shards` does the parts that remain."""
        raise NotImplementedError(f"the stage {self.name} has no part {part}")

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Write files of the whole stage into *work*, after all shards are finished."""
        return ShardOutput({})

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over configuration, upstream fingerprints, dataset, interval and the stage's revision."""
        upstream = {name: self.upstream_stage(name).fingerprint for name in self.upstream}
        return fingerprint(
            self.name, self.revision, self.config.dataset, self.version.interval, self.identity(), upstream
        )

    @property
    def folder(self) -> str:
        """The folder in the store of this stage of this version."""
        folder = f"{self.version.folder}/{self.name}"
        return f"{folder}/{self.fingerprint[:12]}" if self.keyed else folder

    def upstream_stage(self, name: str) -> Stage:
        """Return the stage *name* of the same version and configuration; the same object on every call."""
        if name not in self._stages:
            self._stages[name] = stage = load_stage(name, self.config, self.version)
            stage._stages = self._stages
        return self._stages[name]

    def manifest(self) -> Manifest | None:
        """Return this stage's manifest, or None if it is not committed. Raises CorruptError."""
        found = read_manifest(self.store, self.folder)
        if found is not None and found.fingerprint != self.fingerprint:
            raise CorruptError(f"{self.folder}/{NAME} has settings that differ from its version's; restore it")
        return found

    def resolve_upstream(self, name: str) -> Upstream:
        """Return the output of the upstream stage *name*, resolved once. Raises VecapError if it is not finished."""
        if name not in self._resolved:
            stage = self.upstream_stage(name)
            manifest = stage.manifest() or stage.reuse_revision()
            if manifest is None:
                raise VecapError(
                    f"stage {name} of version {self.version.name} is not finished; run `vecap {name}` first"
                )
            self._resolved[name] = Upstream(self.store, stage.folder, manifest)
        return self._resolved[name]

    def upstream_manifest(self, name: str) -> Manifest:
        """Return the manifest of the upstream stage *name*. Raises VecapError if it is not finished."""
        return self.resolve_upstream(name).manifest

    def upstream_files(self, name: str, files: Iterable[str] | None = None) -> list[RecordedFile]:
        """Return *files* (names in the store) of the upstream stage *name*, by default all."""
        return self.resolve_upstream(name).files(files)

    def recorded(self, names: Iterable[str]) -> list[RecordedFile]:
        """Return the upstream files *names* (in the store) with their records."""
        return [self._upstream_files[name] for name in names]

    def upstream_images(self, tar: str, wanted: Mapping[str, str | None]) -> Iterator[tuple[str, bytes]]:
        """Yield the *wanted* images of the crawl's *tar* (a name in the store), as `RecordedFile.images` does."""
        return self._upstream_files[tar].images(wanted)

    @cached_property
    def _upstream_files(self) -> dict[str, RecordedFile]:
        return {file.name: file for name in self.upstream for file in self.upstream_files(name)}

    def _check_upstream(self, max_bytes: float = math.inf) -> None:
        self._read_check.check_all(self.reads(), self.store, self.folder, max_bytes)

    def check_reads(self, shard: str) -> None:
        """Compare the files that *shard* reads with their records, each once per process. Raises CorruptError."""
        self._read_check.check(self.shard_reads(shard))

    def _check_loaded(self, results: Iterable[ShardResult]) -> None:
        """Raise CorruptError if a model or a prompt has changed since the stage started, or for one of the shards."""
        check_fingerprints(self.folder, results, self.fingerprint)
        known = self.loaded()
        forget_hashes()
        for item in set(type(self)(self.config, self.version).loaded()).difference(known):
            raise CorruptError(f"{item.kind} {item.name} changed during the run; restore it and run again")

    def finished(self) -> set[str]:
        """Return the names of the finished shards, with one listing."""
        return finished_shards(self.store, self.folder)

    def receipts(self) -> list[ShardResult]:
        """Return the receipts of the finished shards, by name."""
        return read_receipts(self.store, self.folder)

    def receipt(self, shard: str) -> ShardResult | None:
        """Return the receipt of *shard*, None if it is not finished."""
        return read_receipt(self.store, self.folder, shard)

    def scratch_dir(self, shard: str) -> str:
        """Return the store folder for the intermediate files of *shard*; it is removed when the shard finishes."""
        return f"{self.folder}/{RECEIPTS}/{shard}"

    def pending_preparations(self) -> list[str]:
        """Return the parts that can be prepared in parallel before `plan`; none if the stage is committed."""
        if self._is_committed():
            return []
        parts = self.preparations()
        if parts:
            self._check_upstream(_MAX_EARLY_CHECK)
        return parts

    def _is_committed(self) -> bool:
        return self.manifest() is not None or self.reuse_revision() is not None

    def plan(self) -> list[str]:
        """Return the unfinished shards; none if the stage is committed or can be reused from another revision."""
        if self._is_committed():
            return []
        for name in self.upstream:
            self.upstream_manifest(name)
        self._check_upstream(_MAX_EARLY_CHECK)
        return retry_when_full(self._plan, self.store.scratch)

    def _plan(self) -> list[str]:
        shards = self.shards()
        return record_plan(self.store, self.folder, shards, self._unfinished(shards))

    def _unfinished(self, shards: Iterable[str]) -> list[str]:
        finished = self.finished()
        return [shard for shard in shards if shard not in finished]

    def reuse_revision(self) -> Manifest | None:
        """Reuse this stage from another revision of the interval with the same fingerprint; None if there is none."""
        for other in list_versions(self.store, self.version.dataset, self.version.interval):
            found = read_manifest(self.store, f"{other.folder}/{self.name}")
            if other.name == self.version.name or found is None or found.fingerprint != self.fingerprint:
                continue
            created = self.store.create(f"{self.folder}/{NAME}", found.to_json())
            # `vecap gc` sets a tombstone, then checks for references; this does the reverse.
            versions = list_versions(self.store, self.version.dataset, self.version.interval)
            if found.location.split("/")[1] in {version.name for version in versions}:
                return found
            if created:
                self.store.remove(f"{self.folder}/{NAME}")
        return None

    def finalize(self, shard: str) -> ShardResult | None:
        """Return the receipt of *shard*; if it has one, remove leftovers of slower attempts."""
        found = self.receipt(shard)
        if found is not None:
            self.store.remove_folder(self.scratch_dir(shard))
        return found

    def run(self, shard: str) -> ShardResult:
        """Process one shard and publish its files, then its receipt. A finished shard is not processed again.

        Raises VecapError if the stage is committed: published files are immutable.
        """
        start = time.monotonic()
        found = self.finalize(shard)
        if found is not None:
            return found
        if self.manifest() is not None:
            raise VecapError(f"{self.folder} is committed and its shards are immutable; run `vecap verify`")
        self.check_reads(shard)
        made = retry_when_full(lambda: self._make(shard), self.store.scratch, is_long=True)
        if isinstance(made, ShardResult):  # another run was faster
            return made
        output, files = made
        seconds = round(time.monotonic() - start, 3)
        result = ShardResult(shard, files, dict(output.counters), seconds, dict(output.notes), self.fingerprint)
        self.store.put(f"{self.folder}/{RECEIPTS}/{shard}.json", result.to_json())
        self.store.remove_folder(self.scratch_dir(shard))
        return result

    def _make(self, shard: str) -> ShardResult | tuple[ShardOutput, tuple[FileEntry, ...]]:
        """Process one shard and publish its files; return its receipt if another run has finished it meanwhile."""
        with self.store.workspace() as work:
            output = self.process(shard, work)
            return self.finalize(shard) or (output, publish(self.store, self.folder, output.files, work))

    def commit(self) -> Manifest:
        """Write the manifest after all shards are finished; return the existing one of a committed stage.

        If several runs commit at once, one wins and the others log it. Raises VecapError if shards are missing, the
        version was deleted, or another run committed different content, and CorruptError if an upstream file differs
        from its manifest.
        """
        manifest = retry_when_full(self._commit, self.store.scratch)
        write_summary(self.store, self.folder, manifest)
        return manifest

    def _commit(self) -> Manifest:
        found = self.manifest() or self.reuse_revision()
        if found is not None:
            return found
        self._check_upstream()
        unfinished = self._unfinished(self.shards())
        if unfinished:
            raise VecapError(
                f"{len(unfinished)} shards of {self.folder} are not finished (the first is {unfinished[0]}); "
                f"run `vecap {self.name}` again to resume"
            )
        results = self.receipts()
        self._check_loaded(results)
        check_recorded(without_tars(receipted_files(self.store, self.folder, self.name, results)))
        for name in {result.shard for result in results}.intersection(self.store.folders(f"{self.folder}/{RECEIPTS}")):
            self.store.remove_folder(self.scratch_dir(name))  # left by killed workers that were overtaken
        attached = Attachments(self.store, self.folder, f"{self.folder}/{RECEIPTS}/attachments")
        with self.store.workspace() as work:
            output = self.finish(results, work)
            files = publish(self.store, self.folder, output.files, work)
            attachments = attached.publish(output.attachments, work, lambda: self.manifest() is not None)
        counters = total((*(result.counters for result in results), output.counters))
        everything = sorted(
            (*(entry for result in results for entry in result.files), *files), key=lambda entry: entry.path
        )
        started = first_start(self.store, self.folder)
        manifest = Manifest(
            dataset=self.config.dataset,
            interval=self.version.interval,
            stage=self.name,
            fingerprint=self.fingerprint,
            config=self.identity(),
            inputs=(*self._upstream_inputs(), *self.inputs()),
            files=tuple(everything),
            counters=counters,
            attachments=tuple(sorted(attachments, key=lambda entry: entry.path)),
            location=self.folder,
            provenance=provenance(self.config.model_dump(mode="json"), results, output.notes, started),
        )
        won = self.store.create(f"{self.folder}/{NAME}", manifest.to_json())
        for name in (self.version.name, *self.references()):
            if is_deleted(self.store, self.version.dataset, name):  # after the write, as in `reuse_revision`
                if won:
                    self.store.remove(f"{self.folder}/{NAME}")
                raise VecapError(f"version {name} was deleted during the run; run it again")
        attached.clear()
        if won:
            return manifest
        winner = self.manifest()
        if winner is None or winner.digest != manifest.digest:
            raise VecapError(
                f"another run committed different content to {self.folder} at the same time; run `vecap verify`"
            )
        log.info("another run committed %s first, with the same content: %s", self.folder, winner.digest)
        return winner

    def _upstream_inputs(self) -> list[Input]:
        return [Input("stage", name, self.upstream_manifest(name).digest) for name in self.upstream]
