"""A stage: plan, run, commit. The base class keeps the contract, a stage says only what its shards are and make.

reads()   which files of other stages it reads: checked before it begins, and before it is committed
prepare() what must be done before the shards can be named, if a stage has such work (one part at a time)
plan()    which shards are still to be done
run(s)    do one: its files appear whole, and its receipt last, so a kill at any moment costs that shard alone
commit()  check that every shard is done, write what belongs to the whole, then the manifest: the stage exists
"""

from __future__ import annotations

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from vecap_tasks import __version__
from vecap_tasks.config import Config
from vecap_tasks.core.manifest import (
    NAME,
    Attachments,
    FileEntry,
    Input,
    Manifest,
    ShardOutput,
    ShardResult,
    code_version,
    fingerprint,
    read_manifest,
)
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import MISSING, RecordedFile, Upstream, find_differing
from vecap_tasks.core.version import Version, is_deleted, list_versions
from vecap_tasks.errors import CorruptError, VecapError

log = logging.getLogger(__name__)

RECEIPTS = "_shards"
_READ_FIRST = 1 << 30  # bytes of upstream files that are read before a stage begins, a second or two


STAGES = {
    "crawl": "vecap_tasks.crawl.stage:Crawl",
    "quality": "vecap_tasks.quality.stage:Quality",
    "rewrite": "vecap_tasks.rewrite.stage:Rewrite",
    "assemble": "vecap_tasks.assemble.stage:Assemble",
    "train": "vecap_tasks.train.stage:Train",
    "evaluate": "vecap_tasks.evaluate.stage:Evaluate",
}


def stage_kind(name: str) -> type[Stage]:
    """Return the class of the stage *name*, imported now. Raises VecapError for a name that is none."""
    place = STAGES.get(name)
    if place is None:
        raise VecapError(f"there is no stage {name}; the stages are {', '.join(STAGES)}")
    module, _, kind = place.partition(":")
    found: type[Stage] = getattr(import_module(module), kind)
    return found


def load_stage(name: str, config: Config, version: Version) -> Stage:
    """Return the stage *name* of *version*. Raises VecapError for a name that is none."""
    return stage_kind(name)(config, version)


class Stage(ABC):
    """One stage of one version. Subclasses say `name`, `upstream`, and fill in the abstract methods."""

    name: ClassVar[str]
    upstream: ClassVar[tuple[str, ...]] = ()
    revision: ClassVar[int] = 1  # raised when a change of code changes the bytes that the stage makes
    on_workers: bool = True  # shards go to Dask workers; False for work that a task does itself
    runs_models: bool = False  # shards need workers with `dask.resources`
    rates: ClassVar[tuple[str, ...]] = ()  # counters that a shard's log line gives per second
    keyed: ClassVar[bool] = False  # True: one version may hold several, by fingerprint (train, evaluate)

    def __init__(self, config: Config, version: Version) -> None:
        self._stages: dict[str, Stage] = {}  # of this version and configuration, shared by all of them
        self._resolved: dict[str, Upstream] = {}
        self.config = config
        self.version = version
        self.store = Store(config.resolve(config.root))
        # Asked between the batches of a shard: False where nobody waits for it any more, and going on would be in vain.
        self.is_wanted: Callable[[], bool] = lambda: True

    # What a stage fills in.

    def identity(self) -> dict[str, Any]:
        """Return the configuration that decides this stage's bytes; models add their digests."""
        section: dict[str, Any] = getattr(self.config, self.name).identity()
        return section

    def inputs(self) -> list[Input]:
        """Return what this stage reads besides the stages before it: sources, models, prompts."""
        return []

    def reads(self) -> list[RecordedFile]:
        """Return the files of other stages that this one reads, without those that it checks as it reads them: tars."""
        everything = ((name, self.upstream_manifest(name).files_ending("")) for name in self.upstream)
        files = [file for name, listed in everything for file in self.upstream_files(name, listed)]
        return [file for file in files if not file.name.endswith(".tar")]

    @abstractmethod
    def shards(self) -> list[str]:
        """Return the names of all shards, in order. May prepare what they share, safely and more than once."""

    @abstractmethod
    def process(self, shard: str, work: Path) -> ShardOutput:
        """Write the shard's files into the empty folder *work*: a pure function of inputs and configuration."""

    def preparations(self) -> list[str]:
        """Return the parts of the work that the shards follow from, and that is not done; most stages have none."""
        return []

    def prepare(self, part: str) -> None:
        """Do one of the `preparations`; safe to do twice, and to kill. What nobody did, `shards` does itself."""
        raise NotImplementedError(f"the stage {self.name} has no part {part}")

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Write what belongs to the whole stage into *work*, all shards being done."""
        return ShardOutput({})

    # What every stage has.

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over configuration, upstream fingerprints, dataset, interval and the stage's revision."""
        upstream = {name: self.upstream_stage(name).fingerprint for name in self.upstream}
        return fingerprint(
            self.name, self.revision, self.config.dataset, self.version.interval, self.identity(), upstream
        )

    @property
    def folder(self) -> str:
        """Where in the store this stage of this version lies."""
        place = f"{self.version.folder}/{self.name}"
        return f"{place}/{self.fingerprint[:12]}" if self.keyed else place

    def upstream_stage(self, name: str) -> Stage:
        """Return the stage *name* of the same version and configuration; one object for all stages that ask."""
        if name not in self._stages:
            self._stages[name] = stage = load_stage(name, self.config, self.version)
            stage._stages = self._stages
        return self._stages[name]

    def manifest(self) -> Manifest | None:
        """Return this stage's manifest, or None while it has none. Raises CorruptError."""
        found = read_manifest(self.store, self.folder)
        if found is not None and found.fingerprint != self.fingerprint:
            raise CorruptError(f"{self.folder}/{NAME} belongs to other settings than its version; restore it")
        return found

    def resolve_upstream(self, name: str) -> Upstream:
        """Return what the stage *name* before this one made, resolved once. Raises VecapError if it is not done."""
        if name not in self._resolved:
            stage = self.upstream_stage(name)
            manifest = stage.manifest() or stage.reuse_revision()
            if manifest is None:
                raise VecapError(f"version {self.version.name} has no {name} yet; run `vecap {name}` first")
            self._resolved[name] = Upstream(self.store, stage.folder, manifest)
        return self._resolved[name]

    def upstream_manifest(self, name: str) -> Manifest:
        """Return the manifest of the stage *name* before this one. Raises VecapError if it is not done."""
        return self.resolve_upstream(name).manifest

    def upstream_files(self, name: str, files: Iterable[str] | None = None) -> list[RecordedFile]:
        """Return *files* (names in the store) of the stage *name* before this one, by default all."""
        return self.resolve_upstream(name).files(files)

    @contextmanager
    def upstream_file(self, name: str) -> Iterator[Path]:
        """Give a local path to the file *name* of a stage before this one.

        Raises CorruptError if the file was changed or is missing.
        """
        with self._upstream_files[name].checked() as path:
            yield path

    @cached_property
    def _upstream_files(self) -> dict[str, RecordedFile]:
        return {file.name: file for name in self.upstream for file in self.upstream_files(name)}

    def _check_upstream(self, read_up_to: float = math.inf) -> None:
        """Compare the files that this stage reads with their records: sizes and, up to so many bytes, every byte.

        Raises CorruptError if one differs. If one was changed, what this stage has made so far may come from it and is
        discarded. Nothing can come from a file that is missing.
        """
        files = self.reads()
        differing = find_differing(files, read=sum(file.bytes for file in files) <= read_up_to)
        if not differing:
            return
        changed = any(problem != MISSING for _, problem in differing)
        for name in self.store.folders(self.folder) if changed else ():
            if name.startswith("_"):  # receipts, checkpoints and the like
                log.warning("%s: %s is discarded: it may come from a damaged file", self.name, name)
                self.store.remove_folder(f"{self.folder}/{name}")
        (file, problem), *more = differing
        others = f" (and {len(more)} more files)" if more else ""
        raise CorruptError(f"{file.name} {problem}; {file.remedy}{others}")

    def receipts(self) -> list[ShardResult]:
        """Return the receipts of the finished shards, by name."""
        place = f"{self.folder}/{RECEIPTS}"
        names = [name for name in self.store.files(place) if name.endswith(".json")]
        return [ShardResult.from_json(self.store.read(f"{place}/{name}")) for name in names]

    def receipt(self, shard: str) -> ShardResult | None:
        """Return the receipt of *shard*, None while it is not finished."""
        try:
            return ShardResult.from_json(self.store.read(f"{self.folder}/{RECEIPTS}/{shard}.json"))
        except FileNotFoundError:
            return None

    def scratch_dir(self, shard: str) -> str:
        """Return the folder of the store for what *shard* keeps while it is not finished; it goes when it is."""
        return f"{self.folder}/{RECEIPTS}/{shard}"

    def pending_preparations(self) -> list[str]:
        """Return the parts that can be prepared side by side before `plan` is asked; none where the stage is done."""
        if self._done():
            return []
        parts = self.preparations()
        if parts:
            self._check_upstream(_READ_FIRST)
        return parts

    def _done(self) -> bool:
        return self.manifest() is not None or self.reuse_revision() is not None

    def plan(self) -> list[str]:
        """Return the shards still to be done; none where the stage is committed or another version has the same."""
        if self._done():
            return []
        for name in self.upstream:
            self.upstream_manifest(name)
        self._check_upstream(_READ_FIRST)
        return self._missing()

    def _missing(self) -> list[str]:
        place = f"{self.folder}/{RECEIPTS}"
        done = {name.removesuffix(".json") for name in self.store.files(place)}
        return [shard for shard in self.shards() if shard not in done]

    def reuse_revision(self) -> Manifest | None:
        """Take over this stage from another revision of the interval that made the very same, if there is one."""
        for other in list_versions(self.store, self.version.dataset, self.version.interval):
            if other.name == self.version.name:
                continue
            found = read_manifest(self.store, f"{other.folder}/{self.name}")
            if found is None or found.fingerprint != self.fingerprint:
                continue
            created = self.store.create(f"{self.folder}/{NAME}", found.to_json())
            # `vecap gc` sets a tombstone, then looks who refers to the files; this refers, then looks for a tombstone.
            there = list_versions(self.store, self.version.dataset, self.version.interval)
            if found.location.split("/")[1] in {version.name for version in there}:
                return found
            if created:
                self.store.remove(f"{self.folder}/{NAME}")
        return None

    def finalize(self, shard: str) -> ShardResult | None:
        """Return the receipt of *shard*; where there is one, remove what a slower try has kept since."""
        found = self.receipt(shard)
        if found is not None:
            self.store.remove_folder(self.scratch_dir(shard))
        return found

    def run(self, shard: str) -> ShardResult:
        """Do one shard and publish its files, the receipt last. One that has its receipt is not done again.

        Raises VecapError where the stage is committed: what is published is never written again.
        """
        start = time.monotonic()
        found = self.finalize(shard)
        if found is not None:
            return found
        if self.manifest() is not None:
            raise VecapError(f"{self.folder} is committed, its shards are not written again; run `vecap verify`")
        with self.store.workspace() as work:
            made = self.process(shard, work)
            found = self.finalize(shard)
            if found is not None:  # another run was faster
                return found
            files = self._publish(made.files, work)
        result = ShardResult(shard, files, dict(made.counters), round(time.monotonic() - start, 3), dict(made.notes))
        receipt = json.dumps(asdict(result), sort_keys=True).encode()
        self.store.put(f"{self.folder}/{RECEIPTS}/{shard}.json", receipt)
        self.store.remove_folder(self.scratch_dir(shard))
        return result

    def commit(self) -> Manifest:
        """Write the manifest, all shards being done; a stage that has one is left as it is.

        Of several runs that commit at once one wins, and the others say so. Raises VecapError when shards are missing,
        when the version was deleted meanwhile, or when another process committed something else, and CorruptError when
        a file that the stage read is not what its manifest says.
        """
        found = self.manifest() or self.reuse_revision()
        if found is not None:
            return found
        self._check_upstream()
        missing = self._missing()
        if missing:
            raise VecapError(
                f"{len(missing)} shards of {self.folder} are not done (the first is {missing[0]}); "
                f"run `vecap {self.name}` again, it does only what is missing"
            )
        results = self.receipts()
        for name in {result.shard for result in results}.intersection(self.store.folders(f"{self.folder}/{RECEIPTS}")):
            self.store.remove_folder(
                self.scratch_dir(name)
            )  # of a worker that was killed after another had overtaken it
        attached = Attachments(self.store, self.folder, f"{self.folder}/{RECEIPTS}/attachments")
        with self.store.workspace() as work:
            made = self.finish(results, work)
            files = self._publish(made.files, work)
            attachments = attached.publish(made.attachments, work, lambda: self.manifest() is not None)
        counters = _total((*(result.counters for result in results), made.counters))
        everything = sorted(
            (*(entry for result in results for entry in result.files), *files), key=lambda entry: entry.path
        )
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
            provenance=self._provenance(results, made),
        )
        won = self.store.create(f"{self.folder}/{NAME}", manifest.to_json())
        if is_deleted(self.store, self.version.dataset, self.version.name):  # after, as in `adopt`
            if won:
                self.store.remove(f"{self.folder}/{NAME}")
            raise VecapError(f"version {self.version.name} was deleted while it was being made; run it again")
        attached.clear()
        if won:
            return manifest
        winner = self.manifest()
        if winner is None or winner.digest != manifest.digest:
            raise VecapError(f"another run committed different content to {self.folder} at the same time; run verify")
        log.info("another run committed %s first, with the same content: %s", self.folder, winner.digest)
        return winner

    def _upstream_inputs(self) -> list[Input]:
        return [Input("stage", name, self.upstream_manifest(name).digest) for name in self.upstream]

    def _publish(self, files: Mapping[str, int | None], work: Path) -> tuple[FileEntry, ...]:
        entries = [FileEntry.of(work, name, rows) for name, rows in sorted(files.items())]
        for entry in entries:
            # It lies there from a run that was killed, or is at the same work: what is published is written once.
            if not entry.exists_in(self.store, self.folder):
                self.store.upload(f"{self.folder}/{entry.path}", work / entry.path)
        return tuple(entries)

    def _provenance(self, results: list[ShardResult], end: ShardOutput) -> dict[str, Any]:
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "vecap": __version__,
            "code": code_version(),
            "seconds": round(sum(result.seconds for result in results), 3),
            "notes": _total([*(result.notes for result in results), end.notes]),
            "config": self.config.model_dump(mode="json"),
        }


def _total(sources: Sequence[Mapping[str, int]]) -> dict[str, int]:
    counters: dict[str, int] = {}
    for source in sources:
        for name, count in source.items():
            counters[name] = counters.get(name, 0) + count
    return counters
