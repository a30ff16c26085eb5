"""The stage `assemble`: joins crawl, verdicts and captions into the published dataset.

A revision of a version with the same crawl and verdicts changes only texts: it refers to the image shards of that
version, and copies only images that those lack. Which version that is, is part of its fingerprint.
"""

# ruff: noqa: S608 - queries contain only this file's text and quoted paths

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from vecap_tasks.assemble.card import SHEET_SAMPLES, CardData, SheetItem, TextProvenance, write_card, write_sheet
from vecap_tasks.assemble.shards import (
    COUNTS,
    Base,
    Group,
    Source,
    adopt_groups,
    copied_sizes,
    count_samples,
    find_base,
    plan_groups,
    shard_name,
    split_referenced,
    write_references,
    write_shards,
)
from vecap_tasks.core.intermediate import fetch, receipted_files
from vecap_tasks.core.manifest import Input, ShardOutput, ShardResult, fingerprint, read_manifest
from vecap_tasks.core.samples import TrainingShard
from vecap_tasks.core.schemas import CAPTIONS, CRAWL, KEPT, SAMPLES, VERDICTS, with_kept
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.tables import connect, create_view, view_files
from vecap_tasks.core.verify import (
    IMAGES,
    RecordedFile,
    find_differing,
    raise_differing,
    read_file,
)
from vecap_tasks.core.version import Version, list_versions, recorded_images
from vecap_tasks.errors import PermanentError

# An accepted row becomes a sample if it has a VeCap: from the LLM, or the VeC or AltText as a fallback.
_HAS_TEXT = "captions.vecap IS NOT NULL AND captions.vecap_from != 'none'"
# The arm `alttext` is the text as crawled, with white space normalized, unless it has private data. `alttext` in
# VERDICTS and CAPTIONS is the cleaned text for the LLM.
_ALTTEXT = r"""CASE WHEN verdicts.alttext_problem = 'private_data' THEN ''
    ELSE coalesce(trim(regexp_replace(crawl.caption, '[\s\p{Z}\p{Cc}]+', ' ', 'g')), '') END"""
# The variants of a text: all accepted ones; if there are none, the text itself.
_VARIANTS = """
    CASE WHEN coalesce(captions.{0}, '') = '' THEN []
    WHEN len(list_filter(captions.{0}_variants, lambda text: text IS NOT NULL)) > 0
        THEN list_filter(captions.{0}_variants, lambda text: text IS NOT NULL)
    ELSE [captions.{0}] END AS {0}_variants"""

_SHEET = "samples.png"
_TABLES_AT_ONCE = 500
_TEXTS = ("alttext", "vec", "vecap", "alttext_rewritten")
_COUNT_QUERY = f"""
    SELECT count(*),
        coalesce(max(greatest(len(vec_variants), len(vecap_variants), len(alttext_rewritten_variants))), 0),
        {", ".join(f"count(*) FILTER ({text} != '')" for text in _TEXTS)},
        {", ".join(f"coalesce(avg(len(string_split({text}, ' '))) FILTER ({text} != ''), 0)" for text in _TEXTS)}
    FROM samples"""


class Assemble(Stage):
    """Writes `{shard}.tar`, `{shard}.parquet` (SAMPLES), `sizes.json`, the dataset card and the sample sheet."""

    name: ClassVar[str] = "assemble"
    upstream: ClassVar[tuple[str, ...]] = ("crawl", "quality", "rewrite")
    revision: ClassVar[int] = 3  # 3: no AltText with private data

    def identity(self) -> dict[str, Any]:
        return self._identity(self._images)

    def inputs(self) -> list[Input]:
        base = self._base
        return [] if base is None else [Input(IMAGES, base.manifest.location, base.manifest.digest)]

    def references(self) -> list[str]:
        return [] if self._images is None else [self._images["version"]]

    def reads(self) -> list[RecordedFile]:
        rewrite = self.upstream_manifest("rewrite")
        verdicts = map(self._verdicts, self._crawl_tables)
        return [
            *self.recorded([*self._crawl_tables, *verdicts, rewrite.file(COUNTS), *rewrite.files_ending(".parquet")]),
            *(self._base.files(self.store, ".parquet") if self._base is not None else ()),
        ]

    def shard_reads(self, shard: str) -> list[RecordedFile]:
        return []  # `process` compares what it reads

    def shards(self) -> list[str]:
        """Return the groups of crawl shards. Raises PermanentError if no row has a caption."""
        groups = list(self._groups)
        if not groups:
            rows = self.upstream_manifest("rewrite").counters.get("rows", 0)
            raise PermanentError(
                f"version {self.version.name} has nothing to assemble: none of its {rows} accepted rows has a caption; "
                f"see the columns vec_problem and vecap_problem of {self.store.root}/{self.version.folder}/rewrite"
            )
        return groups

    def process(self, shard: str, work: Path) -> ShardOutput:
        group = self._groups[shard]
        schema = with_kept(SAMPLES, bool(self.config.crawl.source.kept_columns))
        kept = ", crawl.kept" if KEPT.name in schema.names else ""
        with self._open_views(group, work) as (connection, tables):
            samples = connection.sql(f"""
                SELECT crawl.filename, crawl.jpeg_sha256,
                    crawl.key, crawl.uid, crawl.url, crawl.sha256, crawl.width, crawl.height,
                    {_ALTTEXT} AS alttext, coalesce(captions.vec, '') AS vec, captions.vecap, captions.vecap_from,
                    coalesce(captions.alttext_rewritten, '') AS alttext_rewritten,
                    {", ".join(_VARIANTS.format(text) for text in ("vec", "vecap", "alttext_rewritten"))}{kept}
                FROM crawl JOIN verdicts USING (key) JOIN captions USING (key)
                WHERE verdicts.accepted AND {_HAS_TEXT} ORDER BY md5(crawl.uid), crawl.key""").to_arrow_table()
        files: dict[str, int] = {}
        counters: dict[str, int] = {}
        copied = samples
        sizes = dict(enumerate(group.sizes, group.first))
        if self._base is not None:
            referenced, copied = split_referenced(samples, _read_keys(self._base.shard_tables(self.store, group), work))
            files = write_references(
                {shard: rows.select(schema.names) for shard, rows in referenced.items()},
                self._base.manifest.location,
                work,
            )
            sizes = copied_sizes(len(copied), self.config.assemble.shard_size, group, self._base.groups)
            counters = {"referenced_images": len(samples) - len(copied)}
        wanted: dict[str, dict[str, str | None]] = {source.tar: {} for source in group.sources}
        images = {path: wanted[source.tar] for path, source in zip(tables, group.sources, strict=True)}
        stored = copied.select(["filename", "key", "jpeg_sha256"]).to_pydict()
        for table, key, sha256 in zip(*stored.values(), strict=True):
            images[table][key] = sha256
        folder = None if self._base is None else self.folder
        rows = copied.select(schema.names)
        files |= write_shards(self.upstream_images, wanted, rows, sizes, work, self._digits, folder)
        shards = sum(file.endswith(".parquet") for file in files)
        return ShardOutput(files, {"samples": len(samples), "shards": shards, **counters})

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        entries = sorted((entry for result in results for entry in result.files), key=lambda entry: entry.path)
        sizes = {entry.path: entry.rows for entry in entries if entry.path.endswith(".tar")}
        (work / "sizes.json").write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
        tables = [f"{self.folder}/{entry.path}" for entry in entries if entry.path.endswith(".parquet")]
        rows = self.upstream_manifest("rewrite").counters["rows"]
        left_out = rows - sum(result.counters["samples"] for result in results)
        card = self._card_data(tables, left_out, sum(rows or 0 for rows in sizes.values()), work)
        (work / "README.md").write_text(write_card(card), encoding="utf-8")
        write_sheet(self._first_samples(results), work / _SHEET)
        counters = {"rows": rows, "left_out.no_caption": left_out}
        # The sheet is an attachment because font rendering depends on the machine.
        # For charts: the texts of each kind, and their words.
        notes = {f"{text}_texts": count for text, count in card.with_text.items()}
        notes |= {f"{text}_words": round(card.words[text] * count) for text, count in card.with_text.items()}
        return ShardOutput({"sizes.json": None, "README.md": None}, counters, attachments=(_SHEET,), notes=notes)

    def _first_samples(self, results: list[ShardResult]) -> list[SheetItem]:
        """Return the first samples of the first shard, for the sheet. Raises CorruptError if a tar is corrupt."""
        own = {file.name: file for file in receipted_files(self.store, self.folder, self.name, results)}
        tars = {shard_name(name): file for name, file in own.items() if name.endswith(".tar")}
        shared = [] if self._base is None else self._base.files(self.store, ".tar")
        raise_differing(find_differing(shared, read=False))
        tars = {shard_name(file.name): file for file in shared} | tars
        first = min(name for name in own if name.endswith(".parquet"))
        shard = TrainingShard(own[first], tars[shard_name(first)], first.replace(".parquet", ".tar") not in own)
        rows = shard.read_table().slice(0, SHEET_SAMPLES).to_pylist()
        images = shard.images([row["key"] for row in rows])
        return [SheetItem(jpeg, row) for row, jpeg in zip(rows, images, strict=True)]

    @cached_property
    def _images(self) -> dict[str, str] | None:
        """The earlier version whose image shards this one may refer to, and its digest; None if it copies all images.

        It is decided when the version is registered: then the first published version of the interval that has the same
        crawl and verdicts, shards of the same size, and its own images.
        """
        if self.version.revision == 1:
            return None
        if self.version.revision > 1:
            return recorded_images(self.store, self.version)
        versions = list_versions(self.store, self.version.dataset, self.version.interval)
        copy = self.config.assemble.copy_images
        for version in versions:
            images = recorded_images(self.store, version)
            usable = images is None or (not copy and self._find(images) is not None)
            if usable and self._fingerprint(images) == version.fingerprint:
                return images
        candidates = () if copy else map(self._candidate, versions)
        return next((images for images in candidates if images is not None), None)

    def _identity(self, images: dict[str, str] | None) -> dict[str, Any]:
        return super().identity() | ({"images": images} if images is not None else {})

    def _fingerprint(self, images: dict[str, str] | None) -> str:
        """Return the fingerprint of a version that refers to *images*."""
        upstream = {name: self.upstream_stage(name).fingerprint for name in self.upstream}
        identity = self._identity(images)
        return fingerprint(self.name, self.revision, self.config.dataset, self.version.interval, identity, upstream)

    def _candidate(self, version: Version) -> dict[str, str] | None:
        """Return the reference to the images of *version* if a version with this configuration can use them."""
        assembled, quality = (read_manifest(self.store, f"{version.folder}/{name}") for name in (self.name, "quality"))
        if assembled is None or quality is None or "images" in assembled.config:
            return None
        images = {"version": version.name, "digest": assembled.digest}
        same = quality.fingerprint == self.upstream_stage("quality").fingerprint
        return images if same and self._find(images) is not None else None

    def _find(self, images: dict[str, str]) -> Base | None:
        return find_base(self.store, self.version.dataset, images, self.config.assemble.shard_size)

    @cached_property
    def _base(self) -> Base | None:
        """The version whose images this one refers to. Raises PermanentError if it is missing or has changed."""
        if self._images is None:
            return None
        base = self._find(self._images)
        if base is None:
            raise PermanentError(
                f"version {self.version.name} uses the images of version {self._images['version']}, which is missing "
                f"or changed; restore it, or run the interval {self.version.interval} again to create a revision"
            )
        return base

    @property
    def _digits(self) -> int:
        return max(4, len(str(self.config.assemble.shard_size - 1)))

    @cached_property
    def _groups(self) -> dict[str, Group]:
        """The groups by name, from the number of samples of each crawl shard."""
        samples = count_samples(self._samples)
        sources = [Source(table, tar, samples[shard_name(table)]) for table, tar in self._crawl_tables.items()]
        if self._base is not None:
            groups = adopt_groups(sources, self._base.groups)
        else:
            groups = plan_groups(sources, self.config.assemble.shard_size)
        return {group.name: group for group in groups}

    @cached_property
    def _samples(self) -> dict[str, dict[str, int]]:
        """The number of samples of each crawl shard in each shard of the captions."""
        samples: dict[str, dict[str, int]] = json.loads(
            read_file(self.store, self.upstream_manifest("rewrite"), COUNTS)
        )
        return samples

    @cached_property
    def _captions(self) -> dict[str, list[str]]:
        """Maps the crawl shards to the tables with their captions."""
        tables: dict[str, list[str]] = {}
        for shard, counts in self._samples.items():
            for crawl_shard in counts:
                tables.setdefault(crawl_shard, []).append(self.upstream_manifest("rewrite").file(f"{shard}.parquet"))
        return tables

    @cached_property
    def _crawl_tables(self) -> dict[str, str]:
        """Maps the crawl tables of shards with images to their tars."""
        tars = self.upstream_manifest("crawl").files_ending(".tar")
        return {str(PurePosixPath(tar).with_suffix(".parquet")): tar for tar in tars}

    def _verdicts(self, table: str) -> str:
        return self.upstream_manifest("quality").file(f"verdicts/{shard_name(table)}.parquet")

    def _tables(self, group: Group) -> dict[str, list[str]]:
        """Return the names in the store of the crawl tables, verdicts and captions of *group*."""
        crawl = [source.table for source in group.sources]
        captions = dict.fromkeys(name for table in crawl for name in self._captions[shard_name(table)])
        return {"crawl": crawl, "verdicts": list(map(self._verdicts, crawl)), "captions": list(captions)}

    @contextmanager
    def _open_views(self, group: Group, work: Path) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[str]]]:
        """Open a connection with the views `crawl`, `verdicts` and `captions` of *group*; also yield the paths of the
        crawl's tables. Raises CorruptError if a file differs from its record."""
        schemas = {"crawl": CRAWL, "verdicts": VERDICTS, "captions": CAPTIONS}
        with connect(self.store, self.config.assemble.memory_limit, work=work) as connection:
            paths = {view: fetch(self.recorded(names), work / view) for view, names in self._tables(group).items()}
            for view, schema in schemas.items():
                view_files(connection, view, paths[view], schema)
            yield connection, paths["crawl"]

    def _provenance(self, connection: duckdb.DuckDBPyConnection, tables: Sequence[str]) -> set[tuple[str, ...]]:
        """Return kind, model, revision and prompt of the texts in *tables*.

        DuckDB holds the metadata of all files of a query, 0.2 MB for each.
        """
        found: set[tuple[str, ...]] = set()
        for start in range(0, len(tables), _TABLES_AT_ONCE):
            create_view(connection, self.store, "captions", tables[start : start + _TABLES_AT_ONCE], CAPTIONS)
            for kind, text in (("VeC", "vec"), ("VeCap", "vecap"), ("AltText rewritten", "alttext_rewritten")):
                rows = connection.execute(f"""
                    SELECT DISTINCT {text}_model, {text}_revision, {text}_prompt FROM captions
                    WHERE {text}_model IS NOT NULL""").fetchall()
                found.update((kind, *row) for row in rows)
        return found

    def _card_data(self, tables: list[str], left_out: int, copied: int, work: Path) -> CardData:
        manifests = {name: self.upstream_manifest(name) for name in self.upstream}
        with connect(self.store, self.config.assemble.memory_limit, work=work) as connection:
            create_view(connection, self.store, "samples", tables, SAMPLES)
            samples, variants, *texts = connection.execute(_COUNT_QUERY).fetchall()[0]
            # In one query with the texts, DuckDB would hold them all.
            images = connection.execute("SELECT count(DISTINCT sha256) FROM samples").fetchall()[0][0]
            origins = connection.execute(
                "SELECT vecap_from, count(*) FROM samples GROUP BY 1 ORDER BY 2 DESC, 1"
            ).fetchall()
            provenance = self._provenance(connection, manifests["rewrite"].files_ending(".parquet"))
        return CardData(
            dataset=self.config.dataset,
            interval=self.version.interval,
            license=self.config.assemble.license,
            shards=len(tables),
            samples=samples,
            images=images,
            left_out=left_out,
            with_text=dict(zip(_TEXTS, texts[: len(_TEXTS)], strict=True)),
            words=dict(zip(_TEXTS, texts[len(_TEXTS) :], strict=True)),
            variants=variants,
            origins=dict(origins),
            provenance=tuple(TextProvenance(*row) for row in sorted(provenance)),
            counters={name: manifest.counters for name, manifest in manifests.items()},
            digests={name: manifest.digest for name, manifest in manifests.items()},
            kept=self.config.crawl.source.kept_columns,
            images_of=None if self._images is None else self._images["version"],
            copied=copied,
        )


def _read_keys(tables: list[RecordedFile], work: Path) -> dict[str, pa.Table]:
    """Return key, uid and sha256 of the samples in the *tables* of training shards, by shard. Raises CorruptError."""
    paths = fetch(tables, work / "base")
    read = (pq.read_table(path, columns=["key", "uid", "sha256"]) for path in paths)
    return {shard_name(file.name): keys for file, keys in zip(tables, read, strict=True)}
