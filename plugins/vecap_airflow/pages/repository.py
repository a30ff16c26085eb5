"""Data access of the pages: versions, samples, images, quarantine and lineage of one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import duckdb

from vecap_airflow.job import REPOSITORY
from vecap_tasks.config import Config, load_config
from vecap_tasks.core.diff import Diff, Summary, diff, summarize
from vecap_tasks.core.manifest import Manifest, read_manifest
from vecap_tasks.core.mlflow_tracking import open_tracking
from vecap_tasks.core.releases import Entry, read_releases
from vecap_tasks.core.samples import Row, Samples, read_image
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, list_versions, published, read_version
from vecap_tasks.errors import CorruptError, OutageError, VecapError, format_error
from vecap_tasks.lineage.mlflow_notes import page_url, run_page
from vecap_tasks.lineage.tree import Node
from vecap_tasks.lineage.walk import walk
from vecap_tasks.quality.quarantine import Page, ReasonCount, has_verdicts, list_reasons, list_rows, release
from vecap_tasks.quality.report import read_findings, report_folder

_CACHED_VERSIONS = 16  # versions whose sample tables stay open
_MAX_COMPARED = 8  # versions of one sample on the comparison page
# Exceptions from reading corrupt or missing version files.
UNREADABLE = (CorruptError, OutageError, OSError, duckdb.IOException, duckdb.InvalidInputException)


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """A version's summary, manifests, quality findings, and changes since the previous published version.

    `diff_error` is the reason why the previous version could not be compared, otherwise "".
    """

    summary: Summary
    manifests: dict[str, Manifest]
    findings: dict[str, Any] | None
    data_docs: tuple[str, ...]  # Great Expectations pages, relative to the report folder
    has_quarantine: bool
    diff: Diff | None
    diff_error: str
    mlflow_ui: bool  # whether an MLflow UI is configured


class Repository:
    """All versions of one dataset."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dataset = config.dataset
        self._store = Store(config.resolve(config.root))
        self._samples = lru_cache(maxsize=_CACHED_VERSIONS)(self._open_samples)

    def versions(self, first: int, count: int) -> tuple[list[tuple[Summary, str]], int]:
        """Return *count* versions from index *first*, newest first, and the total number.

        Each summary comes with the reason why the version cannot be read, or "".
        """
        versions = self._newest_first()
        return [self._summary(version) for version in versions[first : first + count]], len(versions)

    def quarantines(self, count: int) -> list[Summary]:
        """Return those of the *count* newest versions that have a quarantine and can be read."""
        summaries = [(version, *self._summary(version)) for version in self._newest_first()[:count]]
        return [summary for version, summary, error in summaries if not error and has_verdicts(self._store, version)]

    def version_details(self, name: str) -> VersionDetails:
        """Return the details of a version. Raises VecapError for an unknown version."""
        version = read_version(self._store, self.dataset, name)
        stages = ("crawl", "quality", "rewrite", "assemble")
        by_stage = {stage: read_manifest(self._store, f"{version.folder}/{stage}") for stage in stages}
        manifests = {stage: manifest for stage, manifest in by_stage.items() if manifest is not None}
        summary = summarize(self._store, version)
        changes, diff_error = self._diff(version) if summary.digest else (None, "")
        report = report_folder(self._store, version)
        docs = self._store.tree(f"{report}/data_docs/validations") if report else []
        pages = tuple(file.path.removeprefix(f"{report}/") for file in docs if file.path.endswith(".html"))
        return VersionDetails(
            summary=summary,
            manifests=manifests,
            findings=read_findings(self._store, version),
            data_docs=pages,
            has_quarantine=has_verdicts(self._store, version),
            diff=changes,
            diff_error=diff_error,
            mlflow_ui=self._mlflow_ui(),
        )

    def report(self, name: str, path: str) -> bytes | None:
        """Return the file *path* of a version's quality report, None if it does not exist."""
        folder = report_folder(self._store, read_version(self._store, self.dataset, name))
        if folder is None or not set(path.split("/")).isdisjoint({"", ".", ".."}):
            return None
        return self._store.read(f"{folder}/{path}") if self._store.exists(f"{folder}/{path}") else None

    def run_url(self, name: str, system: str) -> str | None:
        """Return the URL of the version's MLflow run (*system* is "mlflow") or of the Airflow task that recorded it.

        Returns None if no Airflow task recorded it. Raises VecapError if there is no MLflow run or no MLflow UI.
        """
        version = read_version(self._store, self.dataset, name)
        manifest = published(self._store, version)
        if manifest is None:
            raise VecapError(f"version {name} is not published, so it has no MLflow run")
        with open_tracking(self.config, create=False) as tracking:
            run, uri = tracking.find_version(self.dataset, name, manifest.digest), tracking.uri
        if run is None:
            raise VecapError(
                f"MLflow at {uri} has no run of version {name}: it was recorded elsewhere, or not yet; "
                "to record it, clear its task publish in Airflow, or run `vecap run` with this mlflow.tracking_uri"
            )
        if system == "airflow":
            task_url: str | None = run.data.tags.get("airflow.url")
            return task_url
        url = page_url(self.config, run_page(run.info.experiment_id, run.info.run_id))
        if url is None:
            raise VecapError("no MLflow UI is configured (set mlflow.ui_url)")
        return url

    def samples(self, name: str) -> Samples:
        """Return the samples of a version. Raises VecapError if it has no captions."""
        version = read_version(self._store, self.dataset, name)
        manifest = read_manifest(self._store, f"{version.folder}/rewrite")
        return self._samples(version, manifest.digest if manifest else "")

    def image(self, name: str, key: str) -> bytes | None:
        version = read_version(self._store, self.dataset, name)
        crawl = read_manifest(self._store, f"{version.folder}/crawl")
        return read_image(self._store, crawl, key) if crawl else None

    def revisions(self, uid: str) -> list[tuple[str, Row]]:
        """Return (version name, row) of the sample *uid* in the newest published versions that contain it."""
        rows: list[tuple[str, Row]] = []
        for version in self._newest_first():
            if published(self._store, version) is not None:
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
        rows = list_rows(self._store, version, reason, count, first)
        entries = read_releases(self._store, self.dataset, version.interval)
        return list_reasons(self._store, version), rows, entries

    def release(self, name: str, *, uids: Sequence[str], reason: str | None, note: str, by: str) -> None:
        """Record a release. Raises VecapError if there is nothing to release."""
        version = read_version(self._store, self.dataset, name)
        release(self._store, version, uids=uids, reason=reason, note=note, by=by)

    def lineage(self, name: str, check: bool) -> Node:
        """Return the lineage of a version or model; *check* re-hashes all files."""
        return walk(self.config, name, check=check)

    def _open_samples(self, version: Version, digest: str) -> Samples:  # digest is part of the cache key
        return Samples(self._store, version)

    def _newest_first(self) -> list[Version]:
        return list_versions(self._store, self.dataset)[::-1]

    def _summary(self, version: Version) -> tuple[Summary, str]:
        try:
            return summarize(self._store, version), ""
        except UNREADABLE as error:
            empty = Summary(version.name, version.interval, version.revision, 0, 0, 0, 0, 0, 0, None)
            return empty, describe_unreadable(error)

    def _diff(self, version: Version) -> tuple[Diff | None, str]:
        """Return the diff of *version* with the previous published version, if any, and an error message or ""."""
        earlier = [v for v in self._newest_first() if (v.interval, v.revision) < (version.interval, version.revision)]
        for other in earlier:
            try:
                if published(self._store, other) is not None:
                    return diff(self._store, other, version), ""
            except UNREADABLE as error:
                return None, f"cannot compare with {other.name}: {describe_unreadable(error)}"
        return None, ""

    def _mlflow_ui(self) -> bool:
        try:
            return page_url(self.config, "") is not None
        except VecapError:  # for example, an environment variable that this process lacks
            return False


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
