"""The stage rewrite: every accepted row gets a VeC and a VeCap, each with who wrote it and what screening found.

image ── VLM ── screening ── VeC ─┐
                                  ├─ LLM ── screening ── VeCap; where that fails VeC, then AltText, then none
AltText ── cleaning ──────────────┘
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from vecap_tasks.config import ModelConfig
from vecap_tasks.dataset.manifest import Input, canonical
from vecap_tasks.dataset.parquet import write_rows
from vecap_tasks.dataset.query import connect
from vecap_tasks.dataset.schemas import CAPTIONS
from vecap_tasks.dataset.stage import Made, Stage
from vecap_tasks.errors import DamagedError
from vecap_tasks.rewrite import screen
from vecap_tasks.rewrite.checkpoint import Checkpoint, find_checkpoint
from vecap_tasks.rewrite.images import Row, read_images
from vecap_tasks.rewrite.prompt import PLACES, Prompt, load_prompt
from vecap_tasks.rewrite.reuse import Caption, Writer, find_captions, finished_captions

_NOT_ASKED = Caption(None, None, 0)


class Rewrite(Stage):
    """Writes `{shard}.parquet` with schema CAPTIONS: the accepted rows in key order, `shard_size` to a shard."""

    name = "rewrite"
    upstream = ("crawl", "quality")
    rates = ("rows", "vec_tokens", "vecap_tokens")

    def identity(self) -> dict[str, Any]:
        made = super().identity()
        for role, (checkpoint, prompt) in self._models.items():
            made[role] |= {"digest": checkpoint.digest, "prompt_digest": prompt.digest}
        return made | {"screening": screen.REVISION}

    def inputs(self) -> list[Input]:
        models = [Input("model", found.name, found.digest, found.bytes) for found, _ in self._models.values()]
        return [*models, *(Input("prompt", prompt.id, prompt.digest) for _, prompt in self._models.values())]

    def shards(self) -> list[str]:
        size = self.config.rewrite.shard_size
        accepted = self.upstream_manifest("quality").counters["accepted"]
        return [f"{number:05d}" for number in range(-(-accepted // size))]

    def process(self, shard: str, work: Path) -> Made:
        rows = self._rows(int(shard))
        found = find_captions(self.store, self._finished, rows, self._vec_writer, self._vecap_writer)
        vec = found.vec | self._describe(rows, found.vec)
        vecap = found.vecap | self._fuse(rows, vec, found.vecap)
        table = self._table(rows, vec, vecap)
        write_rows(table.to_batches(), CAPTIONS, work / f"{shard}.parquet")
        notes = {"reused_vec": len(found.vec), "reused_vecap": len(found.vecap)}
        return Made({f"{shard}.parquet": len(rows)}, count(table), notes=notes)

    # Who writes.

    @cached_property
    def _models(self) -> dict[str, tuple[Checkpoint, Prompt]]:
        section = self.config.rewrite
        roles = (("vlm", section.vlm), ("llm", section.llm))
        own = Path(self.config.resolve(section.prompts)) if section.prompts else None
        return {
            role: (find_checkpoint(self.config, model.model), load_prompt(model.prompt, own, PLACES[role]))
            for role, model in roles
        }

    @cached_property
    def _vec_writer(self) -> Writer:
        # The picture that the VLM sees is the stored one: how it was stored belongs to the parameters.
        stored = self.config.crawl.image.identity() | {"revision": self.before("crawl").revision}
        return self._writer("vlm", self.config.rewrite.vlm, {"image": stored})

    @cached_property
    def _vecap_writer(self) -> Writer:
        limit = self.config.rewrite.max_alttext_chars
        return self._writer("llm", self.config.rewrite.llm, {"max_alttext_chars": limit})

    def _writer(self, role: str, settings: ModelConfig, more: dict[str, Any]) -> Writer:
        checkpoint, prompt = self._models[role]
        screening = screen.identity(self.config.rewrite.screen)
        parameters = settings.identity() | more | {"screening": screening, "stage": self.revision}
        del parameters["model"], parameters["prompt"]  # columns of their own
        return Writer(checkpoint.name, checkpoint.revision, prompt.name, canonical(parameters).decode())

    # What is written about.

    def _rows(self, number: int) -> list[Row]:
        """Return the accepted rows of the shard, in the order of their keys."""
        crawl = self.upstream_manifest("crawl")
        tars = crawl.files_ending(".tar")
        beside = {self.store.query_path(str(PurePosixPath(tar).with_suffix(".parquet"))): tar for tar in tars}
        verdicts = self.store.query_path(self.upstream_manifest("quality").file("verdicts.parquet"))
        size = self.config.rewrite.shard_size
        with connect(self.store, threads=1) as connection:
            lines = connection.execute(
                """
                SELECT key, uid, verdict.sha256, alttext, shard.filename
                FROM read_parquet($verdicts) AS verdict
                LEFT JOIN (SELECT key, filename FROM read_parquet($crawl, filename = true)) AS shard USING (key)
                WHERE accepted ORDER BY key LIMIT $size OFFSET $start
                """,
                {"verdicts": verdicts, "crawl": list(beside), "size": size, "start": number * size},
            ).fetchall()
        for key, *_, file in lines:
            if file is None:
                raise DamagedError(f"{verdicts} accepts row {key}, which no crawl shard has; run `vecap verify`")
        return [Row(key, uid, sha256, alttext, beside[file]) for key, uid, sha256, alttext, file in lines]

    @cached_property
    def _finished(self) -> tuple[str, ...]:
        return finished_captions(self.store, self.version)

    # What is written.

    def _describe(self, rows: Sequence[Row], known: Mapping[str, Caption]) -> dict[str, Caption]:
        """Return the VeC of the images that have none yet, by sha256."""
        wanted = {row.sha256: row for row in reversed(rows) if row.sha256 not in known}
        if not wanted:
            return {}
        from vecap_tasks.rewrite.vlm import load_vlm

        checkpoint, prompt = self._models["vlm"]
        vlm = load_vlm(checkpoint, self.config.rewrite.vlm, prompt)
        made = {}
        for row, said in vlm.describe(read_images(self.store, sorted(wanted.values(), key=lambda row: row.key))):
            if said is None:
                made[row.sha256] = Caption(None, "unreadable_image", 0)
                continue
            kept = screen.screen_vec(said.text, said.ended, prompt.text, self.config.rewrite.screen)
            made[row.sha256] = Caption(kept.text, kept.problem, said.tokens)
        return made

    def _fuse(
        self, rows: Sequence[Row], vec: Mapping[str, Caption], known: Mapping[tuple[str, str], Caption]
    ) -> dict[tuple[str, str], Caption]:
        """Return the VeCap of the pairs of AltText and VeC that have none yet."""
        pairs = {(row.alttext, said): None for row in rows if row.alttext and (said := vec[row.sha256].text)}
        wanted = [pair for pair in pairs if pair not in known]
        if not wanted:
            return {}
        from vecap_tasks.rewrite.llm import load_llm

        checkpoint, prompt = self._models["llm"]
        llm = load_llm(checkpoint, self.config.rewrite.llm, prompt, self.config.rewrite.max_alttext_chars)
        made = {}
        for (alttext, said), fused in llm.fuse(wanted).items():
            if fused is None:
                made[alttext, said] = Caption(None, "prompt_too_long", 0)
                continue
            kept = screen.screen_vecap(fused.text, fused.ended, prompt.text, alttext, said, self.config.rewrite.screen)
            made[alttext, said] = Caption(kept.text, kept.problem, fused.tokens)
        return made

    def _table(
        self, rows: Sequence[Row], vec: Mapping[str, Caption], vecap: Mapping[tuple[str, str], Caption]
    ) -> pa.Table:
        """Return the captions, schema CAPTIONS, a row for each of *rows* in their order."""
        seen = [vec[row.sha256] for row in rows]
        fused = [
            vecap[row.alttext, one.text] if row.alttext and one.text else _NOT_ASKED
            for row, one in zip(rows, seen, strict=True)
        ]
        chosen = [choose(two.text, one.text, row.alttext) for row, one, two in zip(rows, seen, fused, strict=True)]
        columns: dict[str, list[Any]] = {
            name: [getattr(row, name) for row in rows] for name in ("key", "uid", "sha256")
        }
        columns["alttext"] = [row.alttext for row in rows]
        columns["vec"] = [one.text for one in seen]
        columns["vecap"] = [text for text, _ in chosen]
        columns["vecap_from"] = [origin for _, origin in chosen]
        for side, captions, writer in (("vec", seen, self._vec_writer), ("vecap", fused, self._vecap_writer)):
            columns[f"{side}_problem"] = [one.problem for one in captions]
            columns[f"{side}_tokens"] = [one.tokens for one in captions]
            for name in ("model", "revision", "prompt", "parameters"):
                columns[f"{side}_{name}"] = [getattr(writer, name)] * len(rows)
        return pa.table(columns, CAPTIONS)


def choose(vecap: str | None, vec: str | None, alttext: str | None) -> tuple[str | None, str]:
    """Return the best text there is and the step that gave it: llm, vec, alttext or none."""
    for text, origin in ((vecap, "llm"), (vec, "vec"), (alttext, "alttext")):
        if text:
            return text, origin
    return None, "none"


def count(table: pa.Table) -> dict[str, int]:
    """Return the counters of a table of captions."""
    origins = Counter(table["vecap_from"].to_pylist())
    problems = Counter(name for side in ("vec", "vecap") for name in table[f"{side}_problem"].to_pylist() if name)
    return {
        "rows": len(table),
        "captioned": origins["llm"] + origins["vec"],
        "vec_tokens": sum(table["vec_tokens"].to_pylist()),
        "vecap_tokens": sum(table["vecap_tokens"].to_pylist()),
        **{f"vecap_from.{origin}": number for origin, number in sorted(origins.items())},
        **{f"problem.{name}": number for name, number in sorted(problems.items())},
    }
