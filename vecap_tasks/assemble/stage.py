"""The stage `assemble`: joins crawl, verdicts and captions into the published dataset."""

# ruff: noqa: S608 - queries contain only this file's text and quoted paths

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

import duckdb

from vecap_tasks.assemble.card import CardData, TextProvenance, write_card, write_sheet
from vecap_tasks.assemble.shards import Group, Source, plan_groups, write_shards
from vecap_tasks.core.intermediate import fetch, receipted_files
from vecap_tasks.core.manifest import ShardOutput, ShardResult
from vecap_tasks.core.schemas import CAPTIONS, CRAWL, KEPT, SAMPLES, VERDICTS, with_kept
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.tables import connect, create_view, view_files
from vecap_tasks.core.verify import RecordedFile, check_recorded, read_file
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
_SAMPLES = "samples.json"  # of the stage rewrite
_TEXTS = ("alttext", "vec", "vecap", "alttext_rewritten")
_COUNT_QUERY = f"""
    SELECT count(*), count(DISTINCT sha256),
        coalesce(max(greatest(len(vec_variants), len(vecap_variants), len(alttext_rewritten_variants))), 0),
        {", ".join(f"count(*) FILTER ({text} != '')" for text in _TEXTS)},
        {", ".join(f"coalesce(avg(len(string_split({text}, ' '))) FILTER ({text} != ''), 0)" for text in _TEXTS)}
    FROM samples"""


class Assemble(Stage):
    """Writes `{shard}.tar`, `{shard}.parquet` (SAMPLES), `sizes.json`, the dataset card and the sample sheet."""

    name: ClassVar[str] = "assemble"
    upstream: ClassVar[tuple[str, ...]] = ("crawl", "quality", "rewrite")
    revision: ClassVar[int] = 3  # 3: no AltText with private data

    def reads(self) -> list[RecordedFile]:
        rewrite = self.upstream_manifest("rewrite")
        verdicts = map(self._verdicts, self._crawl_tables)
        return self.recorded(
            [*self._crawl_tables, *verdicts, rewrite.file(_SAMPLES), *rewrite.files_ending(".parquet")]
        )

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
        wanted: dict[str, dict[str, str | None]] = {source.tar: {} for source in group.sources}
        images = {path: wanted[source.tar] for path, source in zip(tables, group.sources, strict=True)}
        stored = samples.select(["filename", "key", "jpeg_sha256"]).to_pydict()
        for table, key, sha256 in zip(*stored.values(), strict=True):
            images[table][key] = sha256
        rows = samples.select(schema.names)
        files = write_shards(self.upstream_images, group, rows, wanted, work, self._digits)
        return ShardOutput(files, {"samples": len(samples), "shards": len(group.sizes)})

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        entries = sorted((entry for result in results for entry in result.files), key=lambda entry: entry.path)
        sizes = {entry.path: entry.rows for entry in entries if entry.path.endswith(".tar")}
        (work / "sizes.json").write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")
        tables = [f"{self.folder}/{entry.path}" for entry in entries if entry.path.endswith(".parquet")]
        rows = self.upstream_manifest("rewrite").counters["rows"]
        left_out = rows - sum(result.counters["samples"] for result in results)
        card = self._card_data(tables, left_out, work)
        (work / "README.md").write_text(write_card(card), encoding="utf-8")
        first = f"{self.folder}/{min(sizes)}"
        own = receipted_files(self.store, self.folder, self.name, results)
        check_recorded([file for file in own if file.name == first])
        write_sheet(self.store, first, work / _SHEET)
        counters = {"rows": rows, "left_out.no_caption": left_out}
        # The sheet is an attachment because font rendering depends on the machine.
        # For charts: the texts of each kind, and their words.
        notes = {f"{text}_texts": count for text, count in card.with_text.items()}
        notes |= {f"{text}_words": round(card.words[text] * count) for text, count in card.with_text.items()}
        return ShardOutput({"sizes.json": None, "README.md": None}, counters, attachments=(_SHEET,), notes=notes)

    @property
    def _digits(self) -> int:
        return max(4, len(str(self.config.assemble.shard_size - 1)))

    @cached_property
    def _groups(self) -> dict[str, Group]:
        """The groups by name, from the number of samples of each crawl shard."""
        samples = Counter[str]()
        for counts in self._samples.values():
            samples.update(counts)
        tables = self._crawl_tables
        sources = [Source(table, tar, samples[_stem(table)]) for table, tar in tables.items()]
        return {group.name: group for group in plan_groups(sources, self.config.assemble.shard_size)}

    @cached_property
    def _samples(self) -> dict[str, dict[str, int]]:
        """The number of samples of each crawl shard in each shard of the captions."""
        samples: dict[str, dict[str, int]] = json.loads(
            read_file(self.store, self.upstream_manifest("rewrite"), _SAMPLES)
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
        return self.upstream_manifest("quality").file(f"verdicts/{_stem(table)}.parquet")

    def _tables(self, group: Group) -> dict[str, list[str]]:
        """Return the names in the store of the crawl tables, verdicts and captions of *group*."""
        crawl = [source.table for source in group.sources]
        captions = dict.fromkeys(name for table in crawl for name in self._captions[_stem(table)])
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

    def _card_data(self, tables: list[str], left_out: int, work: Path) -> CardData:
        manifests = {name: self.upstream_manifest(name) for name in self.upstream}
        with connect(self.store, self.config.assemble.memory_limit, work=work) as connection:
            create_view(connection, self.store, "samples", tables, SAMPLES)
            create_view(connection, self.store, "captions", manifests["rewrite"].files_ending(".parquet"), CAPTIONS)
            samples, images, variants, *texts = connection.execute(_COUNT_QUERY).fetchall()[0]
            origins = connection.execute(
                "SELECT vecap_from, count(*) FROM samples GROUP BY 1 ORDER BY 2 DESC, 1"
            ).fetchall()
            provenance = connection.execute("""
                SELECT DISTINCT 'VeC', vec_model, vec_revision, vec_prompt FROM captions
                UNION SELECT DISTINCT 'VeCap', vecap_model, vecap_revision, vecap_prompt FROM captions
                UNION SELECT DISTINCT 'AltText rewritten', alttext_rewritten_model, alttext_rewritten_revision,
                    alttext_rewritten_prompt FROM captions WHERE alttext_rewritten_model IS NOT NULL
                ORDER BY ALL""").fetchall()
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
            provenance=tuple(TextProvenance(*row) for row in provenance),
            counters={name: manifest.counters for name, manifest in manifests.items()},
            digests={name: manifest.digest for name, manifest in manifests.items()},
            kept=self.config.crawl.source.kept_columns,
        )


def _stem(table: str) -> str:
    """Return the crawl shard of its *table*."""
    return PurePosixPath(table).stem
