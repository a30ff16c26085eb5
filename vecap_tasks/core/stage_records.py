"""Small records about a stage: a summary of its manifest, its plan, and the last failure.

{stage}/summary.json            written after the manifest; not part of the published content
{stage}/_progress/plan.json     while the stage is unfinished: its number of shards, and when a run started
{stage}/_progress/failure.json  why a run of the stage failed

Lists and pages read these instead of manifests and receipts, whose size grows with the number of rows.
"""

from __future__ import annotations

import builtins  # `bytes` is a field of StageSummary
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeVar

from vecap_tasks.core.manifest import NAME, RECEIPTS, Input, Manifest, read_manifest, seal, unseal
from vecap_tasks.core.store import Store
from vecap_tasks.errors import CorruptError, VecapError, format_error
from vecap_tasks.outages import no_waiting
from vecap_tasks.progress import recent_pace

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
_FORMAT = 1  # of summaries; those of another format are ignored
PROGRESS = "_progress"  # folder of a stage; `vecap gc` deletes it after the commit
MAX_SOURCES = 10  # sources in a summary
_CACHED = 2_048  # summaries kept in memory, of some kilobytes each
_Record = TypeVar("_Record", "StagePlan", "StageFailure")


@dataclass(frozen=True, slots=True)
class StageSummary:
    """What the manifest of a stage says, without its lists of files, its configuration, and most of its sources.

    `files` and `bytes` include attachments. `seconds` is the sum over shards; `created` and `started` are times in ISO
    format, `started` is "" in manifests of release 0.1.0. `inputs` has the first sources, `sources` counts all.
    """

    stage: str
    fingerprint: str
    digest: str
    location: str
    counters: dict[str, int]
    inputs: tuple[Input, ...]
    sources: int
    files: int
    bytes: int
    created: str
    started: str
    seconds: float
    code: str
    notes: dict[str, int]
    manifest_bytes: int

    @classmethod
    def from_manifest(cls, manifest: Manifest, manifest_bytes: int) -> StageSummary:
        entries = (*manifest.files, *manifest.attachments)
        sources = [item for item in manifest.inputs if item.kind == "source"]
        omitted = {id(item) for item in sources[MAX_SOURCES:]}
        provenance = manifest.provenance
        return cls(
            stage=manifest.stage,
            fingerprint=manifest.fingerprint,
            digest=manifest.digest,
            location=manifest.location,
            counters=dict(manifest.counters),
            inputs=tuple(item for item in manifest.inputs if id(item) not in omitted),
            sources=len(sources),
            files=len(entries),
            bytes=sum(entry.bytes for entry in entries),
            created=str(provenance.get("created", "")),
            started=str(provenance.get("started", "")),
            seconds=float(provenance.get("seconds", 0.0)),
            code=str(provenance.get("code", "unknown")),
            notes=dict(provenance.get("notes", {})),
            manifest_bytes=manifest_bytes,
        )

    def to_json(self) -> builtins.bytes:
        body = seal({"format": _FORMAT, **asdict(self)})
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: builtins.bytes, where: str) -> StageSummary | None:
        """Parse the output of `to_json`, None for that of another release. Raises CorruptError naming *where*."""
        body = unseal(data, where, "delete it")
        if body.pop("format", None) != _FORMAT:
            return None
        try:
            return cls(**body | {"inputs": tuple(Input(**item) for item in body["inputs"])})
        except (KeyError, TypeError) as error:
            raise CorruptError(f"{where} is corrupt: {error}; delete it") from error


def write_summary(store: Store, folder: str, manifest: Manifest) -> None:
    """Write the summary of *manifest*, which is in *folder* of the store, unless it is there."""
    summary = StageSummary.from_manifest(manifest, store.size(f"{folder}/{NAME}"))
    try:
        if _load_summary(store, folder) == summary:
            return
    except CorruptError:
        pass
    store.put(f"{folder}/{SUMMARY}", summary.to_json())


def summary_problem(store: Store, folder: str, manifest: Manifest) -> str | None:
    """Return how the summary in *folder* differs from the *manifest* there, None if it does not or if there is none."""
    try:
        found = _load_summary(store, folder)
    except CorruptError:
        return "is corrupt; delete it"
    expected = StageSummary.from_manifest(manifest, store.size(f"{folder}/{NAME}"))
    return None if found in (None, expected) else "differs from the manifest; delete it"


def _load_summary(store: Store, folder: str) -> StageSummary | None:
    name = f"{folder}/{SUMMARY}"
    try:
        return StageSummary.from_json(store.read(name), name)
    except FileNotFoundError:
        return None


def read_summary(store: Store, folder: str) -> StageSummary | None:
    """Return the summary of the stage in *folder*, None if the stage is not committed.

    Without a valid summary file, as in versions of release 0.1.0, it is computed from the manifest. Raises CorruptError
    if that is corrupt.
    """
    try:
        manifest = store.stat(f"{folder}/{NAME}")
    except FileNotFoundError:
        return None
    return _read_summary(store, folder, manifest.bytes, manifest.written)


@lru_cache(maxsize=_CACHED)
def _read_summary(store: Store, folder: str, size: int, written: float) -> StageSummary | None:
    """Return the summary of the manifest with this *size* and time, the last of which is part of the cache's key."""
    try:
        summary = _load_summary(store, folder)
    except CorruptError:
        summary = None
    if summary is not None and summary.manifest_bytes == size:
        return summary
    manifest = read_manifest(store, folder)
    return None if manifest is None else StageSummary.from_manifest(manifest, size)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The number of shards of a stage, how many were pending when the latest run started, and when the first and the
    latest run started (seconds since the epoch)."""

    shards: int
    pending: int
    first_started: float
    started: float


@dataclass(frozen=True, slots=True)
class StageFailure:
    """Why a run of a stage failed, in one line, and when (seconds since the epoch). `url` opens its log, or is ""."""

    error: str
    at: float
    url: str


def record_plan(store: Store, folder: str, shards: Sequence[str], pending: list[str]) -> list[str]:
    """Record that a run starts now with the *pending* ones of the *shards* of the stage in *folder*; return them."""
    now = time.time()
    earlier = read_plan(store, folder)
    plan = StagePlan(len(shards), len(pending), earlier.first_started if earlier else now, now)
    store.put(f"{folder}/{PROGRESS}/plan.json", _to_json(plan))
    return pending


def first_start(store: Store, folder: str) -> float | None:
    """Return when the first run of the unfinished stage in *folder* started (seconds since the epoch), if known."""
    plan = read_plan(store, folder)
    return None if plan is None else plan.first_started


def read_plan(store: Store, folder: str) -> StagePlan | None:
    """Return the plan of the stage in *folder*, None if there is none that can be read."""
    return _read(store, f"{folder}/{PROGRESS}/plan.json", StagePlan)


def read_failure(store: Store, folder: str) -> StageFailure | None:
    """Return the last failure of the stage in *folder*, None if there is none that can be read."""
    return _read(store, f"{folder}/{PROGRESS}/failure.json", StageFailure)


@contextmanager
def recorded_failure(store: Store, folder: str, url: str = "") -> Iterator[None]:
    """Record an exception of the block as the failure of the stage in *folder*; *url* opens the log of the run."""
    try:
        yield
    except BaseException as error:
        failure = StageFailure(format_error(error), time.time(), url)
        try:
            with no_waiting():
                store.put(f"{folder}/{PROGRESS}/failure.json", _to_json(failure))
        except (OSError, VecapError) as problem:  # such as an outage, which may be the failure
            log.warning("cannot record the failure of %s: %s", folder, format_error(problem))
        raise


def _to_json(record: StagePlan | StageFailure) -> bytes:
    return json.dumps(seal(asdict(record)), sort_keys=True, ensure_ascii=False).encode()


def _read(store: Store, name: str, kind: type[_Record]) -> _Record | None:
    try:
        body: dict[str, Any] = unseal(store.read(name), name)
        return kind(**body)
    except (FileNotFoundError, CorruptError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class StageProgress:
    """The progress of an unfinished stage, at the time `now`. Times are in seconds since the epoch.

    `done` counts the shards with a receipt, `shards` all; `done` is at most `shards`. `last_written` is the time of the
    last receipt, None without one. `seconds_left` is estimated from the recent shards of the latest run, None if it has
    finished none.
    """

    shards: int
    done: int
    started: float
    last_written: float | None
    seconds_left: float | None
    failure: StageFailure | None
    now: float

    @property
    def failed(self) -> bool:
        """Whether nothing has happened since the last failure."""
        active = max(self.started, self.last_written or 0.0)
        return self.failure is not None and self.failure.at >= active


def read_progress(store: Store, folder: str, now: float) -> StageProgress | None:
    """Return the progress of the unfinished stage in *folder*, from one listing of its receipts.

    Returns None if no run has started it; a failure before the plan has 0 of 0 shards.
    """
    plan, failure = read_plan(store, folder), read_failure(store, folder)
    if plan is None:
        return None if failure is None else StageProgress(0, 0, failure.at, None, None, failure, now)
    receipts = [file for file in store.written(f"{folder}/{RECEIPTS}") if file.path.endswith(".json")]
    done = min(len(receipts), plan.shards)
    finished = max(0, done - (plan.shards - plan.pending))  # by the latest run
    times = sorted(file.written for file in receipts)
    recent, seconds = recent_pace(times[len(times) - finished :], plan.started, now)
    left = seconds * (plan.shards - done) / recent if recent else None
    return StageProgress(plan.shards, done, plan.started, times[-1] if times else None, left, failure, now)
