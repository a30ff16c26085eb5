"""The stage `quality`: a verdict on every row of a crawl, and the gate that a bad crawl does not pass."""

# ruff: noqa: S608 - the queries are put together from this package's own names

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
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.tables import connect, create_view, write_sorted
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.core.version import Version
from vecap_tasks.errors import GateFailed
from vecap_tasks.quality.alttext_rules import cleaned
from vecap_tasks.quality.clip_scores import FILE as SCORES_FILE
from vecap_tasks.quality.clip_scores import earlier_scores, find_clip, write_scores
from vecap_tasks.quality.gate import MEASURES, Failure, as_json, drift_limits, limits, measure_drift, previous_versions
from vecap_tasks.quality.measures import Measured, measure, write_sample
from vecap_tasks.quality.quarantine import VERDICTS_FILE, shard_tables
from vecap_tasks.quality.report import FINDINGS, PAGE, Findings
from vecap_tasks.quality.rules import wording
from vecap_tasks.quality.verdicts import compute_verdicts, write_verdicts

log = logging.getLogger(__name__)

_SAMPLE = "sample.parquet"
_SCORES = "_scores"  # a table for each shard of the crawl
_TOLD = 5  # reasons that a closed gate names


class Quality(Stage):
    """Rules say which rows go on (`rules.py`); the gate says whether the crawl does (`judge.py`).

    The one shard is all that DuckDB does. Where a CLIP model scores rows, its work comes before, a part for each shard
    of the crawl, and goes to the Dask workers.
    """

    name: ClassVar[str] = "quality"
    revision: ClassVar[int] = 2  # more rules; what a person released
    upstream: ClassVar[tuple[str, ...]] = ("crawl",)

    def __init__(self, config: Config, version: Version) -> None:
        super().__init__(config, version)
        self.on_workers = self.runs_models = config.quality.clip is not None

    def identity(self) -> dict[str, Any]:
        made = super().identity() | {"rules": digest([cleaned("caption"), *wording(self.config.quality)])[:16]}
        released = active(self._releases)
        if released:
            made["released"] = digest([released.uids, released.reasons])[:16]
        if self._clip is not None:
            made["clip"] |= {"digest": self._clip.digest}
        return made

    def inputs(self) -> list[Input]:
        place = f"{self.version.dataset}/{self.version.interval}"
        released = [
            Input("release", f"{place}/{number}", hashlib.sha256(entry_bytes(entry)).hexdigest())
            for number, entry in enumerate(self._releases, start=1)
        ]
        clip = self._clip
        return released if clip is None else [Input("model", clip.name, clip.digest, clip.bytes), *released]

    @cached_property
    def _releases(self) -> list[Entry]:
        """The entries that hold for this version; of one that is not registered yet, all that there are."""
        return releases_of(self.store, self.version)

    def reads(self) -> list[RecordedFile]:
        crawl = self.upstream_manifest("crawl")
        return self.upstream_files("crawl", [*shard_tables(crawl), *crawl.files_ending("duplicates.parquet")])

    # The CLIP model's part.

    @cached_property
    def _clip(self) -> Checkpoint | None:
        settings = self.config.quality.clip
        return None if settings is None else find_clip(self.config, settings)

    def preparations(self) -> list[str]:
        if self.config.quality.clip is None:
            return []
        made = set(self.store.files(f"{self.folder}/{_SCORES}"))
        shards = [Path(name).stem for name in shard_tables(self.upstream_manifest("crawl"))]
        return [shard for shard in shards if f"{shard}.parquet" not in made]

    def prepare(self, part: str) -> None:
        settings, clip = self.config.quality.clip, self._clip
        if settings is None or clip is None:
            raise ValueError("no CLIP model is configured")
        shard = self.upstream_manifest("crawl").file(f"{part}.parquet").removesuffix(".parquet")
        with self.store.workspace() as work:
            rows, known = write_scores(
                self.store, shard, self.upstream_file, self._earlier_scores, clip, settings, work / SCORES_FILE
            )
            self.store.upload(f"{self.folder}/{_SCORES}/{part}.parquet", work / SCORES_FILE)
        log.info("quality: %d rows of %s scored, %d of them by other versions", rows, part, known)

    @cached_property
    def _earlier_scores(self) -> list[str]:
        return earlier_scores(self.store, self.version)

    # DuckDB's part.

    def shards(self) -> list[str]:
        return ["verdicts"]

    def process(self, shard: str, work: Path) -> ShardOutput:
        for part in self.preparations():
            self.prepare(part)
        config = self.config.quality
        (work / "report").mkdir()
        with self._crawl(work) as connection:
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
        figures = measured.measures
        counters = {"rows": figures.rows, "accepted": figures.accepted_rows}
        counters["refused"] = figures.rows - figures.accepted_rows
        if figures.released_rows:
            counters["released"] = figures.released_rows
        counters |= {f"reason.{reason.name}": reason.rows for reason in measured.reasons}
        counters |= {f"alttext.{problem.name}": problem.rows for problem in measured.problems}
        return ShardOutput(files, counters)

    @contextmanager
    def _crawl(self, work: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection with the views `crawl` and `duplicates`, and `scores` where a model made some."""
        manifest = self.upstream_manifest("crawl")
        duplicates = manifest.files_ending("duplicates.parquet")
        with connect(self.store, self.config.quality.memory_limit, work=work) as connection:
            create_view(connection, self.store, "crawl", shard_tables(manifest), CRAWL)
            create_view(connection, self.store, "duplicates", duplicates, DUPLICATES)
            if self.config.quality.clip is not None:
                place = f"{self.folder}/{_SCORES}"
                scores = [f"{place}/{name}" for name in self.store.files(place)]
                create_view(connection, self.store, "scored", scores, SCORES)
                connection.execute(f"CREATE VIEW scores AS SELECT {', '.join(SCORES.names)} FROM scored")
            yield connection

    # Great Expectations' part.

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Judge the crawl. Raises GateFailed where an expectation stops it; the report is in the store even then."""
        from vecap_tasks.quality.expectations import evaluate_expectations

        config = self.config.quality
        measured = Measured.from_json(self.store.read(f"{self.folder}/{MEASURES}"))
        with self.store.open(f"{self.folder}/{_SAMPLE}") as stream:
            sample = pq.read_table(stream).to_pandas()
        crawl = self.upstream_manifest("crawl")
        crawled = datetime.fromisoformat(crawl.provenance["created"])
        earlier = previous_versions(self.store, self.version, config.drift.versions)
        distances = measure_drift(measured, earlier)
        report = work / "report"
        failures = evaluate_expectations(measured.measures, sample, distances, config, crawled, report / "data_docs")
        stops = [failure for failure in failures if failure.level == "stop"]
        warnings = [failure for failure in failures if failure.level == "warn"]
        findings = Findings(
            self.version.interval,
            measured,
            limits(config.gate),
            drift_limits(config.drift),
            tuple(one.version for one in earlier),
            distances,
            {name: rows for name, rows in sorted(crawl.counters.items()) if name.startswith("skipped.")},
            tuple(str(one) for one in stops),
            tuple(str(one) for one in warnings),
        )
        (work / PAGE).write_text(findings.to_html(), encoding="utf-8")
        said = as_json(earlier, distances) | {"stops": findings.stops, "warnings": findings.warnings}
        (work / FINDINGS).write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        pages = sorted(page.relative_to(work).as_posix() for page in report.rglob("*") if page.is_file())
        for warning in findings.warnings:
            log.warning("quality: %s: warning: %s", self.version.name, warning)
        if not stops:
            return ShardOutput({}, attachments=tuple(pages), notes={"warnings": len(warnings)})
        for page in pages:
            self.store.upload(f"{self.folder}/{page}", work / page)
        raise GateFailed(self._refusal(stops, measured))

    def _refusal(self, stops: Sequence[Failure], measured: Measured) -> str:
        more, refused = len(stops) - 1, measured.refused
        others = f" (and {more} more)" if more else ""
        told = ", ".join(f"{reason.rows} {reason.name}" for reason in refused[:_TOLD])
        rest = f", and {len(refused) - _TOLD} other reasons" if len(refused) > _TOLD else ""
        rows = measured.measures.rows
        counted = f"{rows} rows: {told or 'none refused'}{rest}" if rows else "it names no image"
        section = "quality.drift" if stops[0].subject == "drift" else "quality.gate"
        return (
            f"the crawl of {self.version.interval} is refused: {stops[0]}{others}; {counted}; "
            f"look at {self.store.root}/{self.folder}/{PAGE}; mend the source and remove "
            f"{self.store.root}/{self.version.folder} to crawl again, or change {section}"
        )
