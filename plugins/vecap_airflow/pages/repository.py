"""Data access of the pages: versions, samples, images, quarantine and lineage of one dataset."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from vecap_airflow.job import REPOSITORY
from vecap_airflow.pages.link_targets import LinkTargets
from vecap_airflow.pages.performance import ModelPerformance, StagePerformance, model_performance, stage_performance
from vecap_airflow.pages.status import Status, version_status
from vecap_airflow.pages.training import Training, newest_results, read_trainings
from vecap_airflow.pages.trends import Chart, Value, VersionTrends, charts, version_trends
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.diff import Diff, Summary, diff, summarize, summarize_stages
from vecap_tasks.core.manifest import NAME
from vecap_tasks.core.releases import Entry, ReleasePreview, read_releases
from vecap_tasks.core.samples import Row, Samples, read_image
from vecap_tasks.core.stage_records import StageSummary, read_summary
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import DATASET_STAGES, Version, list_versions, read_version
from vecap_tasks.errors import CorruptError, OutageError, format_error
from vecap_tasks.lineage.tree import Node
from vecap_tasks.lineage.walk import walk
from vecap_tasks.quality.quarantine import (
    Page,
    ReasonCount,
    RejectedIndex,
    has_verdicts,
    index_rejected,
    list_rows,
    preview_release,
    rejected_batches,
    release,
)
from vecap_tasks.quality.report import read_findings, report_folder

_CACHED_VERSIONS = 16  # versions whose sample tables stay open, and whose rejected rows are counted
_CACHED_DETAILS = 256  # drifts and differences of versions
_MAX_COMPARED = 8  # versions of one sample on the comparison page
_MAX_SEARCHED = 30  # versions searched for it
_MAX_DIFF_SAMPLES = 1_000_000  # of a version that a page compares with the one before
_REQUESTS_AT_ONCE = 16
T = TypeVar("T")
R = TypeVar("R")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_STAGE_PAGES = {"crawl": "sources", "quality": "quarantine", "rewrite": "samples", "assemble": ""}
# Exceptions from reading corrupt or missing version files.
UNREADABLE = (CorruptError, OutageError, OSError, duckdb.IOException, duckdb.InvalidInputException)


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version in a list, with its committed stages. `error` is the reason why it cannot be read, otherwise ""."""

    summary: Summary
    error: str
    status: Status
    stages: tuple[StageSummary, ...]


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """A version's summary, committed stages, quality findings, and changes since the previous published version.

    `diff_error` is the reason why the previous version could not be compared, otherwise "".
    """

    summary: Summary
    status: Status
    stages: tuple[StagePerformance, ...]
    models: tuple[ModelPerformance, ...]  # captioning models
    trainings: tuple[Training, ...]
    findings: dict[str, Any] | None
    data_docs: tuple[str, ...]  # Great Expectations pages, relative to the report folder
    has_quarantine: bool
    diff: Diff | None
    diff_error: str
    mlflow_ui: bool  # whether an MLflow UI is configured

    @property
    def all_stages(self) -> tuple[StagePerformance, ...]:
        """The committed stages, with those of the trainings."""
        return (*self.stages, *(stage for training in self.trainings for stage in training.stages))


class Repository:
    """All versions of one dataset."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dataset = config.dataset
        self._store = Store(config.resolve(config.root))
        self.targets = LinkTargets(config, self._store)
        self._samples = lru_cache(maxsize=_CACHED_VERSIONS)(self._open_samples)
        self._rejected = lru_cache(maxsize=_CACHED_VERSIONS)(self._index_rejected)
        self._drift = lru_cache(maxsize=_CACHED_DETAILS)(self._read_drift)
        self._cached_diff = lru_cache(maxsize=_CACHED_DETAILS)(self._compute_diff)

    def versions(self, first: int, count: int) -> tuple[list[ListedVersion], int]:
        """Return *count* versions from index *first*, newest first, and the total number."""
        versions = self._newest_first()
        return self._map(self._listed, versions[first : first + count]), len(versions)

    def trends(self, listed: Sequence[ListedVersion]) -> list[Chart]:
        """Return the charts of the published versions in *listed*, which is sorted newest first."""
        published = [each for each in reversed(listed) if each.status.kind == "published"]
        return charts(self._map(self._trends, published))

    def quarantines(self, count: int) -> list[Summary]:
        """Return those of the *count* newest versions that have a quarantine and can be read."""

        def found(version: Version) -> Summary | None:
            listed = self._listed(version)
            return listed.summary if not listed.error and has_verdicts(self._store, version) else None

        return [summary for summary in self._map(found, self._newest_first()[:count]) if summary is not None]

    def version_details(self, name: str) -> VersionDetails:
        """Return the details of a version. Raises VecapError for an unknown version."""
        version = read_version(self._store, self.dataset, name)
        now = time.time()
        found = self._stages(version)
        stages = {stage: summary for stage, summary in found.items() if summary is not None}
        summary = summarize_stages(version, found)
        changes, diff_error = self._diff(version, summary) if summary.digest else (None, "")
        report = report_folder(self._store, version)
        docs = self._store.tree(f"{report}/data_docs/validations") if report else []
        pages = tuple(file.path.removeprefix(f"{report}/") for file in docs if file.path.endswith(".html"))
        return VersionDetails(
            summary=summary,
            status=version_status(self._store, version, found, now),
            stages=tuple(stage_performance(n, f"{version.folder}/{n}", stage) for n, stage in stages.items()),
            models=tuple(model_performance(stages["rewrite"])) if "rewrite" in stages else (),
            trainings=tuple(read_trainings(self._store, version, now)),
            findings=read_findings(self._store, version),
            data_docs=pages,
            has_quarantine=has_verdicts(self._store, version),
            diff=changes,
            diff_error=diff_error,
            mlflow_ui=self.targets.has_mlflow_ui(),
        )

    def report(self, name: str, path: str) -> bytes | None:
        """Return the file *path* of a version's quality report, None if it does not exist."""
        folder = report_folder(self._store, read_version(self._store, self.dataset, name))
        if folder is None or not set(path.split("/")).isdisjoint({"", ".", ".."}):
            return None
        return self._store.read(f"{folder}/{path}") if self._store.exists(f"{folder}/{path}") else None

    def samples(self, name: str) -> Samples:
        """Return the samples of a version. Raises VecapError if it has no captions."""
        version = read_version(self._store, self.dataset, name)
        rewrite = read_summary(self._store, f"{version.folder}/rewrite")
        return self._samples(version, rewrite.digest if rewrite else "")

    def image(self, name: str, key: str) -> bytes | None:
        version = read_version(self._store, self.dataset, name)
        crawl = read_summary(self._store, f"{version.folder}/crawl")
        return read_image(self._store, crawl.location, key) if crawl else None

    def revisions(self, uid: str) -> list[tuple[str, Row]]:
        """Return (version name, row) of the sample *uid* in those of the newest versions that contain it."""
        rows: list[tuple[str, Row]] = []
        for version in self._newest_first()[:_MAX_SEARCHED]:
            if self._is_published(version):
                row = self.samples(version.name).row(uid)
                if row is not None:
                    rows.append((version.name, row))
            if len(rows) == _MAX_COMPARED:
                break
        return rows

    def quarantine(
        self, name: str, reason: str | None, first: int, count: int
    ) -> tuple[list[ReasonCount], Page, list[Entry]]:
        """Return the reasons of a version, a page of its rejected rows, and the releases of its interval."""
        version = read_version(self._store, self.dataset, name)
        quality = read_summary(self._store, f"{version.folder}/quality")
        # Verdicts can change until the stage is committed.
        index = self._rejected(version, quality.digest) if quality else index_rejected(self._store, version)
        rows = list_rows(self._store, version, reason, count, first, index)
        return list(index.reasons), rows, read_releases(self._store, self.dataset, version.interval)

    def preview(self, name: str, reason: str) -> ReleasePreview:
        """Return what a release of *reason* adds. Raises VecapError if there is nothing to release."""
        return preview_release(self._store, read_version(self._store, self.dataset, name), reason=reason)

    def release(self, name: str, *, uids: Sequence[str], reason: str | None, note: str, by: str, force: bool) -> None:
        """Record a release. Raises VecapError if there is nothing to release, or if it adds no row, unless *force*."""
        version = read_version(self._store, self.dataset, name)
        release(self._store, version, uids=uids, reason=reason, note=note, by=by, force=force)

    def rejected(self, name: str, reason: str | None) -> Iterator[pa.RecordBatch]:
        """Yield the rejected rows of a version. Raises VecapError without verdicts."""
        return rejected_batches(self._store, read_version(self._store, self.dataset, name), reason)

    def lineage(self, name: str) -> Node:
        """Return the recorded lineage of a version or model, without reading the files."""
        return walk(self.config, name, check=False)

    def _open_samples(self, version: Version, digest: str) -> Samples:  # digest is part of the cache key
        return Samples(self._store, version)

    def _index_rejected(self, version: Version, digest: str) -> RejectedIndex:  # digest is part of the cache key
        return index_rejected(self._store, version)

    def _newest_first(self) -> list[Version]:
        return list_versions(self._store, self.dataset)[::-1]

    def _map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return the results of *function* for *items*. Object storage answers several requests at once."""
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
            return list(pool.map(function, items))

    def _stages(self, version: Version) -> dict[str, StageSummary | None]:
        return {stage: read_summary(self._store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}

    def _is_published(self, version: Version) -> bool:
        return self._store.exists(f"{version.folder}/assemble/{NAME}")

    def _listed(self, version: Version) -> ListedVersion:
        try:
            stages = self._stages(version)
            status = version_status(self._store, version, stages, time.time())
            found = tuple(stage for stage in stages.values() if stage is not None)
            return ListedVersion(summarize_stages(version, stages), "", status, found)
        except UNREADABLE as error:
            empty = Summary(version.name, version.interval, version.revision, 0, 0, 0, 0, 0, 0, None)
            return ListedVersion(empty, describe_unreadable(error), Status("corrupt"), ())

    def _trends(self, listed: ListedVersion) -> VersionTrends:
        version = Version(self.dataset, listed.summary.interval, listed.summary.revision, "")
        drift: dict[str, float] = {}
        recall: dict[str, Value] = {}
        title = ""
        with suppress(*UNREADABLE):  # the version's own page reports it
            drift = self._drift(version, next(stage.digest for stage in listed.stages if stage.stage == "quality"))
            results = newest_results(self._store, version)
            if results is not None and results.main:
                key = results.main[0]
                title = results.title(key)
                recall = {
                    arm.arm: Value(100 * arm.mean[key], *(100 * bound for bound in arm.intervals[key]))
                    for arm in results.arms
                }
        return version_trends(version.name, listed.stages, drift, recall, title)

    def _read_drift(self, version: Version, digest: str) -> dict[str, float]:  # digest is part of the cache key
        findings = read_findings(self._store, version) or {}
        return {drift["name"]: float(drift["distance"]) for drift in findings.get("moved", ())}

    def _diff(self, version: Version, summary: Summary) -> tuple[Diff | None, str]:
        """Return the diff of *version* with the previous published version, if any, and an error message or ""."""
        earlier = [v for v in self._newest_first() if (v.interval, v.revision) < (version.interval, version.revision)]
        for other in earlier:
            try:
                before = summarize(self._store, other)
                if before.digest is None:
                    continue
                if max(before.assembled, summary.assembled) > _MAX_DIFF_SAMPLES:
                    command = f"vecap diff {other.name} {version.name}"
                    return None, f"more than {_MAX_DIFF_SAMPLES:,} samples to compare; run `{command}`"
                return self._cached_diff(other, version, before.digest, summary.digest), ""
            except UNREADABLE as error:
                return None, f"cannot compare with {other.name}: {describe_unreadable(error)}"
        return None, ""

    def _compute_diff(self, a: Version, b: Version, *_digests: str | None) -> Diff:  # part of the cache key
        return diff(self._store, a, b)


def describe_unreadable(error: Exception) -> str:
    """Return *error*, one of `UNREADABLE`, in one line. DuckDB's messages contain the query after the first line."""
    return str(error).partition("\n")[0] if isinstance(error, duckdb.Error) else format_error(error)


@lru_cache(maxsize=4)
def _repository(path: str, modified: float) -> Repository:
    return Repository(load_config(path, ["outage_timeout=0"]))  # a page reports an outage at once


def open_repository(config: str) -> Repository:
    """Return the dataset of the configuration file, reloaded if the file changed. Raises ConfigError."""
    path = REPOSITORY / config
    return _repository(str(path), path.stat().st_mtime if path.is_file() else 0.0)
