"""The stage `quality`: a verdict on each row of a crawl, and the quality gate for the whole crawl."""

# ruff: noqa: S608 - queries contain only this package's own names

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pyarrow.parquet as pq

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input, ShardOutput, ShardResult, digest
from vecap_tasks.core.models import Checkpoint
from vecap_tasks.core.releases import Entry, active, entry_bytes, releases_of
from vecap_tasks.core.schemas import CRAWL, DUPLICATES, SCORES
from vecap_tasks.core.stage import Check, Stage
from vecap_tasks.core.tables import connect, create_view, write_sorted
from vecap_tasks.core.verify import RECORD, RecordedFile, check_intermediate, check_recorded, put_recorded
from vecap_tasks.core.version import Version
from vecap_tasks.errors import GateFailed
from vecap_tasks.quality.alttext_rules import cleaned
from vecap_tasks.quality.clip_scores import FILE as SCORES_FILE
from vecap_tasks.quality.clip_scores import earlier_scores, find_clip, write_scores
from vecap_tasks.quality.gate import (
    MEASURES,
    Failure,
    drift_findings,
    drift_limits,
    limits,
    measure_drift,
    previous_versions,
)
from vecap_tasks.quality.measures import Measured, measure, write_sample
from vecap_tasks.quality.quarantine import VERDICTS_FILE, shard_tables
from vecap_tasks.quality.report import FINDINGS, PAGE, Findings
from vecap_tasks.quality.rules import rules_sql
from vecap_tasks.quality.verdicts import compute_verdicts, write_verdicts

log = logging.getLogger(__name__)

_SAMPLE = "sample.parquet"
_SCORES = "_scores"  # one table per crawl shard
_MAX_REASONS = 5  # reasons in the gate's error message


class Quality(Stage):
    """Applies the rules to rows (`rules.py`) and the quality gate to the crawl (`gate.py`).

    DuckDB processes all rows as one shard. With a CLIP model, the Dask workers first score each crawl shard in
    `prepare`.
    """

    name: ClassVar[str] = "quality"
    revision: ClassVar[int] = 4  # 4: private data; menus, buttons and screenshots in more languages
    upstream: ClassVar[tuple[str, ...]] = ("crawl",)

    def __init__(self, config: Config, version: Version) -> None:
        super().__init__(config, version)
        self.on_workers = self.runs_models = config.quality.clip is not None

    def identity(self) -> dict[str, Any]:
        identity = super().identity() | {"rules": digest([cleaned("caption"), *rules_sql(self.config.quality)])[:16]}
        released = active(self._releases)
        if released:
            identity["released"] = digest([released.uids, released.reasons])[:16]
        if self._clip is not None:
            identity["clip"] |= {"digest": self._clip.digest}
        return identity

    def checks(self) -> list[Check]:
        return [("quality.clip.model", lambda: self._clip)]

    def inputs(self) -> list[Input]:
        prefix = f"{self.version.dataset}/{self.version.interval}"
        released = [
            Input("release", f"{prefix}/{number}", hashlib.sha256(entry_bytes(entry)).hexdigest())
            for number, entry in enumerate(self._releases, start=1)
        ]
        return [*self.loaded(), *released]

    def loaded(self) -> list[Input]:
        clip = self._clip
        return [] if clip is None else [Input("model", clip.name, clip.digest, clip.bytes)]

    @cached_property
    def _releases(self) -> list[Entry]:
        """Return the entries that apply to this version; all existing entries if it is not registered yet."""
        return releases_of(self.store, self.version)

    def reads(self) -> list[RecordedFile]:
        crawl = self.upstream_manifest("crawl")
        return self.upstream_files("crawl", [*shard_tables(crawl), *crawl.files_ending("duplicates.parquet")])

    # CLIP scores

    @cached_property
    def _clip(self) -> Checkpoint | None:
        settings = self.config.quality.clip
        return None if settings is None else find_clip(self.config, settings)

    def preparations(self) -> list[str]:
        if self.config.quality.clip is None:
            return []
        scored = set(self.store.files(f"{self.folder}/{_SCORES}"))
        shards = [Path(name).stem for name in shard_tables(self.upstream_manifest("crawl"))]
        return [shard for shard in shards if f"{shard}.parquet{RECORD}" not in scored]

    def prepare(self, part: str) -> None:
        settings, clip = self.config.quality.clip, self._clip
        if settings is None or clip is None:
            raise ValueError("no CLIP model is configured")
        self.check_reads()
        shard = self.upstream_manifest("crawl").file(f"{part}.parquet").removesuffix(".parquet")
        with self.store.workspace() as work:
            rows, reused = write_scores(
                self.store, shard, self.upstream_images, self._earlier_scores, clip, settings, work / SCORES_FILE
            )
            put_recorded(self.store, f"{self.folder}/{_SCORES}/{part}.parquet", work / SCORES_FILE)
        log.info("quality: shard %s: %d CLIP scores, %d reused from other versions", part, rows, reused)

    @cached_property
    def _earlier_scores(self) -> list[str]:
        files = earlier_scores(self.store, self.version)
        check_recorded(files)
        return [file.name for file in files]

    # Verdicts and measures (DuckDB)

    def shards(self) -> list[str]:
        return ["verdicts"]

    def process(self, shard: str, work: Path) -> ShardOutput:
        for part in self.preparations():
            self.prepare(part)
        config = self.config.quality
        (work / "report").mkdir()
        with self._open_crawl(work) as connection:
            compute_verdicts(connection, config, work, active(self._releases))
            written = write_verdicts(connection, work / VERDICTS_FILE)
            measured = measure(connection)
            files: dict[str, int | None] = {
                VERDICTS_FILE: written,
                _SAMPLE: write_sample(connection, config.sample_rows, work / _SAMPLE),
                MEASURES: None,
            }
            if config.clip is not None:
                files[SCORES_FILE] = write_sorted(connection, "SELECT * FROM scores", "key", work / SCORES_FILE)
        (work / MEASURES).write_text(measured.to_json(), encoding="utf-8")
        measures = measured.measures
        counters = {"rows": measures.rows, "accepted": measures.accepted_rows}
        counters["refused"] = measures.rows - measures.accepted_rows
        if measures.released_rows:
            counters["released"] = measures.released_rows
        counters |= {f"reason.{reason.name}": reason.rows for reason in measured.reasons}
        counters |= {f"alttext.{problem.name}": problem.rows for problem in measured.problems}
        return ShardOutput(files, counters)

    @contextmanager
    def _open_crawl(self, work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection with the views `crawl`, `duplicates` and, with a CLIP model, `scores`."""
        manifest = self.upstream_manifest("crawl")
        duplicates = manifest.files_ending("duplicates.parquet")
        with connect(self.store, self.config.quality.memory_limit, work=work) as connection:
            create_view(connection, self.store, "crawl", shard_tables(manifest), CRAWL)
            create_view(connection, self.store, "duplicates", duplicates, DUPLICATES)
            if self.config.quality.clip is not None:
                folder = f"{self.folder}/{_SCORES}"
                scores = [f"{folder}/{name}" for name in self.store.files(folder) if not name.endswith(RECORD)]
                check_intermediate(self.store, scores)
                create_view(connection, self.store, "scored", scores, SCORES)
                connection.execute(f"CREATE VIEW scores AS SELECT {', '.join(SCORES.names)} FROM scored")
            yield connection

    # Quality gate (Great Expectations)

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Evaluate the quality gate. Raises GateFailed on failure, after uploading the report."""
        from vecap_tasks.quality.expectations import evaluate_expectations

        config = self.config.quality
        measured = Measured.from_json(self.store.read(f"{self.folder}/{MEASURES}"))
        with self.store.open(f"{self.folder}/{_SAMPLE}") as stream:
            sample = pq.read_table(stream).to_pandas()
        crawl = self.upstream_manifest("crawl")
        crawled = datetime.fromisoformat(crawl.provenance["created"])
        previous = previous_versions(self.store, self.version, config.drift.versions)
        drift = measure_drift(measured, previous)
        report = work / "report"
        failures = evaluate_expectations(measured.measures, sample, drift, config, crawled, report / "data_docs")
        stops = [failure for failure in failures if failure.level == "stop"]
        warnings = [failure for failure in failures if failure.level == "warn"]
        findings = Findings(
            self.version.interval,
            measured,
            limits(config.gate),
            drift_limits(config.drift),
            tuple(version.version for version in previous),
            drift,
            {name: rows for name, rows in sorted(crawl.counters.items()) if name.startswith("skipped.")},
            tuple(str(failure) for failure in stops),
            tuple(str(failure) for failure in warnings),
        )
        (work / PAGE).write_text(findings.to_html(), encoding="utf-8")
        body = drift_findings(previous, drift) | {"stops": findings.stops, "warnings": findings.warnings}
        (work / FINDINGS).write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        pages = sorted(page.relative_to(work).as_posix() for page in report.rglob("*") if page.is_file())
        for warning in findings.warnings:
            log.warning("quality: %s: warning: %s", self.version.name, warning)
        if not stops:
            return ShardOutput({}, attachments=tuple(pages), notes={"warnings": len(warnings)})
        for page in pages:
            self.store.upload(f"{self.folder}/{page}", work / page)
        raise GateFailed(self._failure_message(stops, measured))

    def _failure_message(self, stops: Sequence[Failure], measured: Measured) -> str:
        more, rejected = len(stops) - 1, measured.refused
        others = f" (and {more} more)" if more else ""
        reasons = ", ".join(f"{reason.rows} {reason.name}" for reason in rejected[:_MAX_REASONS])
        rest = f", and {len(rejected) - _MAX_REASONS} other reasons" if len(rejected) > _MAX_REASONS else ""
        rows = measured.measures.rows
        counts = f"{rows} rows: {reasons or 'none rejected'}{rest}" if rows else "the crawl has no rows"
        section = "quality.drift" if stops[0].subject == "drift" else "quality.gate"
        return (
            f"quality gate failed for {self.version.interval}: {stops[0]}{others}; {counts}; "
            f"see {self.store.root}/{self.folder}/{PAGE}; fix the source, delete "
            f"{self.store.root}/{self.version.folder} and run the interval again, or change {section}"
        )
