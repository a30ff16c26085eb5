"""Exports a published version shard by shard: one output shard per training shard, with the same samples in order.

An export has its own images, also if the version refers to those of an earlier one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from vecap_tasks.config import Config
from vecap_tasks.config.recorded import with_current_names
from vecap_tasks.core.manifest import FileEntry, Manifest, ShardResult, read_manifest, total
from vecap_tasks.core.samples import TrainingShard, training_shards
from vecap_tasks.core.schemas import KEPT, SAMPLES
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import Upstream, check_inputs
from vecap_tasks.core.version import DATASET_STAGES, Version, how_to_finish, newer_revision, read_config, read_version
from vecap_tasks.errors import CorruptError, PermanentError
from vecap_tasks.export.card import CardData, write_card
from vecap_tasks.export.formats import FORMATS, Format, index_files
from vecap_tasks.export.records import CrawlTables, Layout, Text, read_origin
from vecap_tasks.export.target import Target
from vecap_tasks.outages import retry_when_full

_REVISION = 1  # increased when a code change changes the bytes of an export
_MAX_LICENSES = 50  # names of licenses that are counted per shard; the others count together
_MAX_LICENSE_CHARS = 80
_BATCH = 1_000  # rows of a table that are Python objects at a time


@dataclass(frozen=True, slots=True)
class Exported:
    """The result. `exported` and `left_out`, by reason, add up to `rows`, the accepted rows of the version."""

    location: str
    rows: int
    exported: int
    left_out: Mapping[str, int]
    shards: int
    bytes: int
    existed: bool  # the same export was complete before

    @property
    def counts(self) -> str:
        """Return the counts in one line."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count)
        missing = self.rows - self.exported
        return f"{self.exported:,} of {self.rows:,} accepted rows; left out {missing:,}" + (
            f": {reasons}" if reasons else ""
        )


class Exporter:
    """The export of version *name* of the configured dataset to *location*, a folder or a URL of object storage.

    Raises PermanentError if a stage of the version is not finished, and CorruptError if its manifests do not match.
    """

    def __init__(self, config: Config, name: str, form: str, text: Text, location: str) -> None:
        self._store = Store(config.resolve(config.root))
        self._version = read_version(self._store, config.dataset, name)
        self._manifests = _read_stages(self._store, self._version)
        self._form: Format = FORMATS[form]
        self._text = text
        crawl, assembled = (
            Upstream(self._store, f"{self._version.folder}/{stage}", self._manifests[stage])
            for stage in ("crawl", "assemble")
        )
        self._shards = training_shards(self._store, assembled.manifest, assembled.remedy)
        files = {file.name: file for file in crawl.files()}
        self._crawl = CrawlTables([files[_table(tar)] for tar in crawl.manifest.files_ending(".tar")])
        self.target = Target(location, self._identity(), self._store)

    def _identity(self) -> dict[str, Any]:
        version = {"dataset": self._version.dataset, "version": self._version.name}
        digests = {stage: manifest.digest for stage, manifest in self._manifests.items()}
        options = {"format": self._form.name, "text": self._text}
        return {"revision": _REVISION, **version, **options, "stages": digests}

    def run(self, report: Callable[[int, int], None]) -> Exported:
        """Export the shards that are not finished. *report* gets the finished shards and their total.

        Raises CorruptError if an input differs from its record, and PermanentError if the folder cannot be used or no
        sample has the text.
        """
        record = self.target.open()
        if record is not None:
            return self._result(record, existed=True)
        layout = self._layout()
        results = []
        for number in range(len(self._shards)):
            report(number, len(self._shards))
            results.append(self._finished(number) or self._export(number, layout))
        report(len(results), len(self._shards))
        return self._result(self._complete(results, layout), existed=False)

    def _layout(self) -> Layout:
        settings = with_current_names({"rewrite": self._manifests["rewrite"].config})["rewrite"]
        counts = [settings.get(model, {}).get("num_captions", 1) for model in ("vlm", "llm")]
        first = _read_table(self._shards[0])
        return Layout(
            self._text,
            rewritten=settings.get("alttext_prompt") is not None,
            variants=max(counts) > 1,
            kept=KEPT.name in first.column_names,
        )

    def _finished(self, number: int) -> ShardResult | None:
        result = self.target.receipt(_name(number))
        if result is not None:
            self._crawl.first, self._crawl.last = result.notes["first"], result.notes["last"]
        return result

    def _export(self, number: int, layout: Layout) -> ShardResult:
        """Write and publish one shard; again from its start after a full disk."""
        return retry_when_full(partial(self._write, number, layout), self.target.store.scratch, is_long=True)

    def _write(self, number: int, layout: Layout) -> ShardResult:
        file = self._form.shard(number, len(self._shards))
        with self.target.store.workspace() as work:
            path = work / file
            path.parent.mkdir(parents=True, exist_ok=True)
            counters = self._write_shard(self._shards[number], path, layout)
            entry = FileEntry.from_file(work, file, counters["exported"])
            notes = {"first": self._crawl.first, "last": self._crawl.last}
            result = ShardResult(_name(number), (entry,), counters, 0, notes, self.target.fingerprint)
            self.target.publish(result, work)
        return result

    def _write_shard(self, shard: TrainingShard, path: Path, layout: Layout) -> dict[str, int]:
        """Write the samples of *shard* to the local file *path*; return the counters."""
        table = _read_table(shard)
        crawled = self._crawl.find(set(table["uid"].to_pylist()))
        counters: Counter[str] = Counter({"samples": 0, "exported": 0})
        licenses: Counter[str] = Counter()
        with self._form.writer(path, layout.columns()) as writer:
            for row, jpeg in zip(_rows(table), shard.images(table["key"].to_pylist()), strict=True):
                counters["samples"] += 1
                origin = read_origin(crawled[row["uid"]], row.get(KEPT.name))
                record = layout.record(row, origin)
                if record is None:
                    counters[f"left_out.no_{self._text}"] += 1
                    continue
                counters["exported"] += 1
                for name in ("page_url", "license", "attribution"):
                    counters[f"with.{name}"] += record[name] != ""
                if origin.license:
                    licenses[origin.license if len(origin.license) <= _MAX_LICENSE_CHARS else "other"] += 1
                writer.write(record, jpeg)
        return dict(counters) | {f"license.{name}": n for name, n in _limited(licenses).items()}

    def _complete(self, results: list[ShardResult], layout: Layout) -> dict[str, Any]:
        counters = total(result.counters for result in results)
        if not counters["exported"]:
            raise PermanentError(f"no sample of version {self._version.name} has the text {self._text}; choose another")
        rows = self._manifests["rewrite"].counters["rows"]
        left_out = {"no_caption": rows - counters["samples"]}
        left_out |= {name.removeprefix("left_out."): n for name, n in counters.items() if name.startswith("left_out.")}
        settings = with_current_names({"assemble": self._manifests["assemble"].config})["assemble"]
        data = CardData(
            dataset=self._version.dataset,
            version=self._version.name,
            form=self._form,
            text=self._text,
            columns=layout.columns(),
            license=settings["license"],
            shards=len(results),
            counters=counters,
            left_out=left_out,
            stages={stage: manifest.counters for stage, manifest in self._manifests.items()},
            digests={stage: manifest.digest for stage, manifest in self._manifests.items()},
            models=tuple(item for item in self._manifests["rewrite"].inputs if item.kind in ("model", "prompt")),
        )
        entries = [entry for result in results for entry in result.files]
        sizes = [entry.rows or 0 for entry in entries]
        files = index_files(self._form, layout.columns(), sizes, self.target.fingerprint)
        files["README.md"] = write_card(data).encode()
        counts = {"rows": rows, "exported": counters["exported"], "left_out": left_out}
        return self.target.complete(files, entries, {"counts": counts})

    def _result(self, record: Mapping[str, Any], *, existed: bool) -> Exported:
        counts, size = record["counts"], sum(entry["bytes"] for entry in record["files"])
        shards = len(self._shards)
        numbers = (counts["rows"], counts["exported"], counts["left_out"])
        return Exported(self.target.location, *numbers, shards, size, existed)


def _read_stages(store: Store, version: Version) -> dict[str, Manifest]:
    """Return the manifests of all dataset stages. Raises PermanentError for the first that is not finished."""
    manifests: dict[str, Manifest] = {}
    for stage in DATASET_STAGES:
        folder = f"{version.folder}/{stage}"
        manifest = read_manifest(store, folder)
        if manifest is None:
            configured = stage != "rewrite" or "rewrite" in read_config(store, version)
            remedy = how_to_finish(store, version, stage)
            if not configured and newer_revision(store, version) is None:
                remedy = "add the section `rewrite`, and run `vecap run`"
            raise PermanentError(
                f"version {version.name} cannot be exported: its stage {stage} is not finished; {remedy}"
            )
        manifests[stage] = manifest
    for stage, manifest in manifests.items():
        for corruption in check_inputs(f"{version.folder}/{stage}", manifest, manifests):
            raise CorruptError(f"{corruption.path} {corruption.problem}; run `vecap verify`")
    return manifests


def _read_table(shard: TrainingShard) -> pa.Table:
    """Return the table of *shard*. Columns that earlier releases did not write are "" or empty."""
    table = shard.read_table()
    for field in SAMPLES:
        if field.name not in table.column_names:
            missing: Any = [] if pt.is_list(field.type) else ""
            table = table.append_column(field, pa.array([missing] * len(table), field.type))
    return table


def _table(tar: str) -> str:
    return str(PurePosixPath(tar).with_suffix(".parquet"))


def _name(number: int) -> str:
    return f"{number:05d}"


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _limited(licenses: Counter[str]) -> dict[str, int]:
    """Return the counts of the most frequent licenses, the others together."""
    ordered = sorted(licenses.items(), key=lambda item: (-item[1], item[0]))
    counts = dict(ordered[:_MAX_LICENSES])
    if rest := sum(count for _, count in ordered[_MAX_LICENSES:]):
        counts["other"] = counts.get("other", 0) + rest
    return counts
