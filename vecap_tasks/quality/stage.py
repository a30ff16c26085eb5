"""The stage `quality`: a verdict on each row of a crawl, and the quality gate for the whole crawl."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from shutil import copyfile
from typing import Any, ClassVar

import duckdb
import pyarrow.parquet as pq

from vecap_tasks.config import Config
from vecap_tasks.core.intermediate import RECORD, IndexedUploads, fetch, fetch_intermediate, put_recorded, read_index
from vecap_tasks.core.manifest import Input, ShardOutput, ShardResult, digest
from vecap_tasks.core.models import Checkpoint
from vecap_tasks.core.releases import Entry, active, entry_bytes, releases_of
from vecap_tasks.core.schemas import CRAWL, DUPLICATES, SCORES
from vecap_tasks.core.stage import Check, Stage
from vecap_tasks.core.tables import connect, view_files
from vecap_tasks.core.verify import RecordedFile, check_recorded
from vecap_tasks.core.version import Version
from vecap_tasks.errors import GateFailed, VecapError
from vecap_tasks.quality.alttext_rules import cleaned
from vecap_tasks.quality.clip_scores import FOLDER as SCORES_FOLDER
from vecap_tasks.quality.clip_scores import Embedded, earlier_scores, find_clip, write_scores
from vecap_tasks.quality.gate import (
    MEASURES,
    Failure,
    drift_findings,
    drift_limits,
    limits,
    measure_drift,
    previous_versions,
)
from vecap_tasks.quality.group_rules import apply_group_rules, write_decisions
from vecap_tasks.quality.measures import Measured, measure, write_sample
from vecap_tasks.quality.quarantine import VERDICTS_FOLDER, shard_tables
from vecap_tasks.quality.report import FINDINGS, PAGE, Findings
from vecap_tasks.quality.rules import rules_sql
from vecap_tasks.quality.semantic import FILE as SEMANTIC_FILE
from vecap_tasks.quality.semantic import PREFIX, SemanticSearch, add_duplicates, write_embeddings
from vecap_tasks.quality.verdicts import count_verdicts, create_judged, open_verdicts, write_judged, write_verdicts

log = logging.getLogger(__name__)

ACCEPTED = "accepted.json"  # maps the crawl shards to their accepted rows

SAMPLE = "sample.parquet"
# Intermediate folders, with one table per crawl shard.
_SCORES = "_scores"
_EMBEDDINGS = "_embeddings"  # of images, if semantic duplicates are rejected
_SEMANTIC = "_semantic"  # of the search for them; not by crawl shard
_JUDGED = "_judged"  # after the rules about single rows
_DECIDED = "_decided"  # by rules that compare rows; also the measures and the sample
_MEASURES = "measures.json"
# Starting workers takes several seconds; 100,000 rows take about eight, and a shard a fraction of one.
_MIN_PARALLEL_PARTS = 3
_MIN_PARALLEL = 64
# Of a part. Planning the query of all row rules takes as long as judging 5,000 rows.
_PART_ROWS = 100_000
_PART_SHARDS = 100
_MAX_THREADS = 8  # of the rules that compare rows; each needs a part of the memory limit
_MAX_REASONS = 5  # reasons in the gate's error message


class Quality(Stage):
    """Writes `verdicts/{shard}.parquet` (VERDICTS) for each crawl shard, `accepted.json` and the quality gate's report.

    `prepare` applies the rules about single rows (`rules.py`) to adjacent crawl shards, or to one, after the CLIP
    model's scores and embeddings, if one is configured, and then searches for semantic duplicates. The rules that
    compare rows follow for all shards at once, on their narrow columns. A shard then applies these decisions to its
    rows.
    """

    name: ClassVar[str] = "quality"
    revision: ClassVar[int] = 5  # 5: a table of verdicts per crawl shard
    upstream: ClassVar[tuple[str, ...]] = ("crawl",)

    def __init__(self, config: Config, version: Version) -> None:
        super().__init__(config, version)
        self.runs_models = config.quality.clip is not None
        self.min_parallel = 1 if self.runs_models else _MIN_PARALLEL
        self.min_parallel_parts = 1 if self.runs_models else _MIN_PARALLEL_PARTS

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
        index = read_index(self.store, f"{self.folder}/{_DECIDED}")
        decided = [] if index is None else index.files.values()
        return [*self.recorded([*self._crawl_tables.values(), *self._duplicates]), *decided]

    def shard_reads(self, shard: str) -> list[RecordedFile]:
        return []  # `prepare` compares what it reads

    # Row rules and CLIP scores, for adjacent crawl shards

    @cached_property
    def _crawl_tables(self) -> dict[str, str]:
        """Maps the crawl's shards to their tables, in order."""
        return {Path(name).stem: name for name in shard_tables(self.upstream_manifest("crawl"))}

    @cached_property
    def _crawl_rows(self) -> dict[str, int]:
        """Maps the crawl's shards to their numbers of rows, 0 for an unknown one."""
        rows = {file.path: file.rows or 0 for file in self.upstream_manifest("crawl").files}
        return {shard: rows[Path(name).name] for shard, name in self._crawl_tables.items()}

    @property
    def _duplicates(self) -> list[str]:
        return self.upstream_manifest("crawl").files_ending("duplicates.parquet")

    @cached_property
    def _clip(self) -> Checkpoint | None:
        settings = self.config.quality.clip
        return None if settings is None else find_clip(self.config, settings)

    def preparations(self) -> list[str]:
        """Return the parts, named by their first and last crawl shard; a model scores one shard at a time.

        When they are finished: the parts of the next step of the search for semantic duplicates.
        """
        judged = self._recorded_in(_JUDGED)
        if self.config.quality.clip is not None:
            judged &= self._recorded_in(_SCORES)
        if self._semantic is not None:
            judged &= self._recorded_in(_EMBEDDINGS)
            if judged.issuperset(self._crawl_tables):
                return self._semantic.preparations()
        parts: list[list[str]] = []
        rows = 0
        is_adjacent = False
        for shard in self._crawl_tables:
            if shard in judged:
                is_adjacent = False
                continue
            rows += self._crawl_rows[shard]
            if is_adjacent and rows <= _PART_ROWS and len(parts[-1]) < _PART_SHARDS and not self.runs_models:
                parts[-1].append(shard)
            else:
                parts.append([shard])
                rows = self._crawl_rows[shard]
            is_adjacent = True
        return [part[0] if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]

    def prepare(self, part: str) -> None:
        if self._semantic is not None and part.startswith(PREFIX):
            with self.store.workspace() as work:
                self._semantic.prepare(part, work)
            return
        shards = self._shards_of(part)
        with self.store.workspace() as work, self._connect(work, threads=1) as connection:
            tables = fetch(self.recorded(self._crawl_tables[shard] for shard in shards), work / "crawl")
            view_files(connection, "crawl", tables, CRAWL)
            embedded: dict[str, Embedded] = {}
            if self.config.quality.clip is not None:
                for shard, table in zip(shards, tables, strict=True):
                    embedded |= self._score(shard, table)
                scores = [self._file(_SCORES, shard) for shard in shards]
                view_files(connection, "scores", fetch_intermediate(self.store, scores, work / "scores"), SCORES)
            (work / "judged").mkdir()
            paths = {shard: work / "judged" / f"{shard}.parquet" for shard in shards}
            write_judged(connection, self.config.quality, paths)
            for shard, path in paths.items():
                if shard in embedded:
                    write_embeddings(embedded[shard], str(path), work / f"{shard}.arrow")
                    put_recorded(self.store, self._file(_EMBEDDINGS, shard), work / f"{shard}.arrow")
                put_recorded(self.store, self._file(_JUDGED, shard), path)

    def _shards_of(self, part: str) -> list[str]:
        first, _, last = part.partition("-")
        shards = list(self._crawl_tables)
        return shards[shards.index(first) : shards.index(last or first) + 1]

    def _score(self, shard: str, table: str) -> dict[str, Embedded]:
        """Write the CLIP scores of *shard* to the store, and return the embeddings of its images, if it lacks them.

        *table* is a local path to the crawl's table.
        """
        settings, clip, name = self.config.quality.clip, self._clip, self._file(_SCORES, shard)
        if settings is None or clip is None:
            raise ValueError("no CLIP model is configured")
        needed = [name] if self._semantic is None else [name, self._file(_EMBEDDINGS, shard)]
        if all(self.store.exists(f"{file}{RECORD}") for file in needed):
            return {}
        tar = self._crawl_tables[shard].removesuffix(".parquet") + ".tar"
        stored = partial(self.upstream_images, tar)
        with self.store.workspace() as work:
            scored = write_scores(
                self.store, table, stored, self._earlier_scores, clip, settings, work / "scores.parquet"
            )
            put_recorded(self.store, name, work / "scores.parquet")
        log.info("quality: shard %s: %d CLIP scores, %d reused from other versions", shard, scored.rows, scored.reused)
        return {} if scored.embedded is None else {shard: scored.embedded}

    @cached_property
    def _earlier_scores(self) -> list[str]:
        files = earlier_scores(self.store, self.version)
        check_recorded(files)
        return [file.name for file in files]

    @cached_property
    def _semantic(self) -> SemanticSearch | None:
        clip = self.config.quality.clip
        if clip is None or clip.duplicate_similarity is None:
            return None
        files = {shard: self._file(_EMBEDDINGS, shard) for shard in self._crawl_rows}
        return SemanticSearch(
            self.store, f"{self.folder}/{_SEMANTIC}", self._crawl_rows, files, clip.duplicate_similarity
        )

    def _file(self, folder: str, shard: str) -> str:
        return f"{self.folder}/{folder}/{shard}.{'arrow' if folder == _EMBEDDINGS else 'parquet'}"

    def _recorded_in(self, folder: str) -> set[str]:
        """Return the shards that have a recorded file in the intermediate *folder*, with one listing."""
        folder, _, suffix = f"{self._file(folder, '')}{RECORD}".rpartition("/")
        return {name.removesuffix(suffix) for name in self.store.files(folder) if name.endswith(suffix)}

    def _connect(self, work: Path, threads: int | None = None) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return connect(self.store, self.config.quality.memory_limit, threads, work)

    # Rules that compare rows, once for the whole crawl

    def shards(self) -> list[str]:
        self._decide()
        return list(self._crawl_tables)

    def _decide(self) -> None:
        """Apply the rules that compare rows, and measure the crawl, unless that is done. Reads narrow columns."""
        while parts := self.preparations():
            for part in parts:
                self.prepare(part)
        if read_index(self.store, f"{self.folder}/{_DECIDED}") is not None:
            return
        judged = [self._file(_JUDGED, shard) for shard in self._crawl_tables]
        config = self.config.quality
        with (
            self.store.workspace() as work,
            self._connect(work, min(_MAX_THREADS, len(os.sched_getaffinity(0)))) as connection,
        ):
            paths = fetch_intermediate(self.store, judged, work / "judged")
            create_judged(connection, paths or [self._judge_nothing(connection, work)])
            duplicates = fetch(self.recorded(self._duplicates), work / "duplicates")
            results = []
            if self._semantic is None:
                view_files(connection, "duplicates", duplicates, DUPLICATES)
            else:
                view_files(connection, "crawl_duplicates", duplicates, DUPLICATES)
                results.append(work / SEMANTIC_FILE)
                add_duplicates(connection, "crawl_duplicates", self._semantic.fetch(work / "semantic"), results[0])
            apply_group_rules(connection, config, active(self._releases), work)
            measured, sample = work / _MEASURES, work / SAMPLE
            measured.write_text(measure(connection).to_json(), encoding="utf-8")
            write_sample(connection, config.sample_rows, sample)
            with IndexedUploads(self.store, f"{self.folder}/{_DECIDED}") as uploads:
                for path in (measured, sample, *results, *write_decisions(connection, list(self._crawl_tables), work)):
                    uploads.add(path)
                uploads.finish({})

    def _judge_nothing(self, connection: duckdb.DuckDBPyConnection, work: Path) -> str:
        """Write the judged rows of a crawl without shards, and return their path."""
        for view, schema in (("crawl", CRAWL), ("scores", SCORES)):
            view_files(connection, view, [], schema)
        path = work / "nothing.parquet"
        write_judged(connection, self.config.quality, {"": path})
        return str(path)

    @cached_property
    def _decided(self) -> dict[str, RecordedFile]:
        """The results of `_decide` by file name."""
        self._decide()
        index = read_index(self.store, f"{self.folder}/{_DECIDED}")
        if index is None:
            raise VecapError(f"{self.folder}/{_DECIDED} was removed during the run; run the same command again")
        return index.files

    # Verdicts of a crawl shard

    def process(self, shard: str, work: Path) -> ShardOutput:
        name = f"{VERDICTS_FOLDER}/{shard}.parquet"
        (work / VERDICTS_FOLDER).mkdir()
        with self._connect(work, threads=1) as connection:
            (judged,) = fetch_intermediate(self.store, [self._file(_JUDGED, shard)], work / "judged")
            open_verdicts(connection, judged, *fetch([self._decided[f"{shard}.parquet"]], work / "decided"))
            files: dict[str, int | None] = {name: write_verdicts(connection, work / name)}
            counters = count_verdicts(connection)
        if self.config.quality.clip is not None:
            scores = self._file(_SCORES, shard)
            (work / SCORES_FOLDER).mkdir()
            name = f"{SCORES_FOLDER}/{shard}.parquet"
            (scores,) = fetch_intermediate(self.store, [scores], work / "scored")
            copyfile(scores, work / name)
            files[name] = pq.read_metadata(work / name).num_rows
        return ShardOutput(files, counters)

    # Quality gate (Great Expectations)

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Evaluate the quality gate. Raises GateFailed on failure, after uploading the report."""
        from vecap_tasks.quality.expectations import evaluate_expectations

        config = self.config.quality
        (work / "report").mkdir()
        paths = fetch([self._decided[name] for name in (_MEASURES, SAMPLE)], work / "decided")
        for name, path in zip((MEASURES, SAMPLE), paths, strict=True):
            copyfile(path, work / name)
        measured = Measured.from_json((work / MEASURES).read_bytes())
        table = pq.read_table(work / SAMPLE)
        sample = table.to_pandas()
        accepted = {result.shard: result.counters["accepted"] for result in results}
        (work / ACCEPTED).write_text(json.dumps(accepted, indent=1) + "\n", encoding="utf-8")
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
        pages = [page.relative_to(work).as_posix() for page in report.rglob("*") if page.is_file()]
        pages = sorted(page for page in pages if page != MEASURES)
        for warning in findings.warnings:
            log.warning("quality: %s: warning: %s", self.version.name, warning)
        if not stops:
            files: dict[str, int | None] = {ACCEPTED: len(accepted), MEASURES: None, SAMPLE: len(table)}
            if self._semantic is not None:
                (found,) = fetch([self._decided[SEMANTIC_FILE]], work / "decided")
                copyfile(found, work / SEMANTIC_FILE)
                files[SEMANTIC_FILE] = pq.read_metadata(work / SEMANTIC_FILE).num_rows
            none = dict.fromkeys(("rows", "accepted", "refused"), 0)  # of a crawl without shards
            return ShardOutput(files, none, attachments=tuple(pages), notes={"warnings": len(warnings)})
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
