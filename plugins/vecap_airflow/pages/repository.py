"""The dataset that the pages show: its versions, their rows and pictures, kept open between requests."""

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
from vecap_tasks.errors import CorruptError, VecapError, format_error
from vecap_tasks.lineage.mlflow_notes import address, run_page
from vecap_tasks.lineage.tree import Node
from vecap_tasks.lineage.walk import walk
from vecap_tasks.quality.quarantine import Page, ReasonCount, has_verdicts, list_reasons, list_rows, release
from vecap_tasks.quality.report import read_findings, report_folder

_OPEN = 16  # versions whose tables are kept open
_COMPARED = 8  # revisions of an image side by side
# What reading a version's files raises if they are damaged or gone.
UNREADABLE = (CorruptError, OSError, duckdb.IOException, duckdb.InvalidInputException)


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """One version: what became of its rows, what the gate found, and what is different from the one before.

    `not_compared` says why `before` is None although there is a version before, "" otherwise.
    """

    summary: Summary
    manifests: dict[str, Manifest]
    findings: dict[str, Any] | None
    data_docs: tuple[str, ...]  # Great Expectations' results, as paths below the report
    judged: bool  # whether it has a quarantine
    before: Diff | None
    not_compared: str
    mlflow_ui: bool  # whether people can open its run in MLflow


class Repository:
    """Every version of one dataset."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dataset = config.dataset
        self._store = Store(config.resolve(config.root))
        self._samples = lru_cache(maxsize=_OPEN)(self._open)

    def versions(self, first: int, count: int) -> tuple[list[tuple[Summary, str]], int]:
        """Return *count* versions, the newest first, from number *first* on, and how many there are.

        With each comes why it cannot be read, "" if it can.
        """
        found = self._newest()
        return [self._summary(version) for version in found[first : first + count]], len(found)

    def quarantines(self, count: int) -> list[Summary]:
        """Return those of the *count* newest versions that have a quarantine and can be read."""
        found = [(version, *self._summary(version)) for version in self._newest()[:count]]
        return [summary for version, summary, problem in found if not problem and has_verdicts(self._store, version)]

    def version_details(self, name: str) -> VersionDetails:
        """Raises VecapError for a version that is not there."""
        version = read_version(self._store, self.dataset, name)
        stages = ("crawl", "quality", "rewrite", "assemble")
        found = {stage: read_manifest(self._store, f"{version.folder}/{stage}") for stage in stages}
        manifests = {stage: manifest for stage, manifest in found.items() if manifest is not None}
        summary = summarize(self._store, version)
        before, not_compared = self._compare(version) if summary.digest else (None, "")
        report = report_folder(self._store, version)
        docs = self._store.tree(f"{report}/data_docs/validations") if report else []
        pages = tuple(file.path.removeprefix(f"{report}/") for file in docs if file.path.endswith(".html"))
        return VersionDetails(
            summary=summary,
            manifests=manifests,
            findings=read_findings(self._store, version),
            data_docs=pages,
            judged=has_verdicts(self._store, version),
            before=before,
            not_compared=not_compared,
            mlflow_ui=self._mlflow_ui(),
        )

    def report(self, name: str, path: str) -> bytes | None:
        """Return the file *path* of the gate's report on a version, None where there is none of that name."""
        folder = report_folder(self._store, read_version(self._store, self.dataset, name))
        if folder is None or not set(path.split("/")).isdisjoint({"", ".", ".."}):
            return None
        return self._store.read(f"{folder}/{path}") if self._store.exists(f"{folder}/{path}") else None

    def recorded(self, name: str, where: str) -> str | None:
        """Return the address of the version's run in MLflow (*where* is "mlflow"), or of the task that recorded it.

        None if no task of Airflow recorded it. Raises VecapError if MLflow has no run of it, or no UI.
        """
        version = read_version(self._store, self.dataset, name)
        manifest = published(self._store, version)
        if manifest is None:
            raise VecapError(f"version {name} is not published yet, and so MLflow does not know it")
        with open_tracking(self.config) as tracking:
            run = tracking.find_version(self.dataset, name, manifest.digest)
        if run is None:
            raise VecapError(f"MLflow has no run of version {name}; clear the task publish of its run in Airflow")
        if where == "airflow":
            task: str | None = run.data.tags.get("airflow.url")
            return task
        found = address(self.config, run_page(run.info.experiment_id, run.info.run_id))
        if found is None:
            raise VecapError(f"there is nothing to open for version {name}: MLflow is a file and has no pages")
        return found

    def samples(self, name: str) -> Samples:
        """Raises VecapError for a version that has no captions."""
        version = read_version(self._store, self.dataset, name)
        manifest = read_manifest(self._store, f"{version.folder}/rewrite")
        return self._samples(version, manifest.digest if manifest else "")

    def image(self, name: str, key: str) -> bytes | None:
        version = read_version(self._store, self.dataset, name)
        crawl = read_manifest(self._store, f"{version.folder}/crawl")
        return read_image(self._store, crawl, key) if crawl else None

    def revisions(self, uid: str) -> list[tuple[str, Row]]:
        """Return the rows of the sample *uid* in the newest versions that have it, with the versions' names."""
        found = []
        for version in self._newest():
            if published(self._store, version) is not None:
                row = self.samples(version.name).row(uid)
                if row is not None:
                    found.append((version.name, row))
            if len(found) == _COMPARED:
                break
        return found

    def quarantine(
        self, name: str, reason: str | None, first: int, count: int
    ) -> tuple[list[ReasonCount], Page, list[Entry]]:
        """Return the reasons of a version, some of its refused rows, and what was released for its interval."""
        version = read_version(self._store, self.dataset, name)
        shown = list_rows(self._store, version, reason, count, first)
        entries = read_releases(self._store, self.dataset, version.interval)
        return list_reasons(self._store, version), shown, entries

    def release(self, name: str, *, uids: Sequence[str], reason: str | None, note: str, by: str) -> None:
        """Write a release down. Raises VecapError where there is nothing to release."""
        version = read_version(self._store, self.dataset, name)
        release(self._store, version, uids=uids, reason=reason, note=note, by=by)

    def lineage(self, name: str, check: bool) -> Node:
        """Return the lineage of a version or model; with *check* every byte of it is read."""
        return walk(self.config, name, check=check)

    def _open(self, version: Version, digest: str) -> Samples:  # the digest is part of what is remembered
        return Samples(self._store, version)

    def _newest(self) -> list[Version]:
        return list_versions(self._store, self.dataset)[::-1]

    def _summary(self, version: Version) -> tuple[Summary, str]:
        try:
            return summarize(self._store, version), ""
        except UNREADABLE as error:
            nothing = Summary(version.name, version.interval, version.revision, 0, 0, 0, 0, 0, 0, None)
            return nothing, describe_unreadable(error)

    def _compare(self, version: Version) -> tuple[Diff | None, str]:
        """Compare *version* with the published one before it, if there is one; else return why that failed, or ""."""
        earlier = [v for v in self._newest() if (v.interval, v.revision) < (version.interval, version.revision)]
        for other in earlier:
            try:
                if published(self._store, other) is not None:
                    return diff(self._store, other, version), ""
            except UNREADABLE as error:
                return None, f"cannot compare with {other.name}: {describe_unreadable(error)}"
        return None, ""

    def _mlflow_ui(self) -> bool:
        try:
            return address(self.config, "") is not None
        except VecapError:  # a variable that this process does not have, or a folder that it cannot make
            return False


def describe_unreadable(error: Exception) -> str:
    """Return *error*, one of `UNREADABLE`, in one line. The lines of DuckDB's errors after the first are the query."""
    return str(error).partition("\n")[0] if isinstance(error, duckdb.Error) else format_error(error)


@lru_cache(maxsize=4)
def _repository(path: str, stamp: float) -> Repository:
    return Repository(load_config(path))


def open_repository(config: str) -> Repository:
    """Return the dataset of the configuration file; read again where the file was changed. Raises ConfigError."""
    path = REPOSITORY / config
    return _repository(str(path), path.stat().st_mtime if path.is_file() else 0.0)
