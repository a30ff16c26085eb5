"""The stage rewrite: every accepted row gets a VeC and a VeCap, each with who wrote it and what screening found.

image ── VLM ── screening ── VeC ─┐
                                  ├─ LLM ── screening ── VeCap; where that fails VeC, then AltText, then none
AltText ── cleaning ──────────────┤
                                  └─ LLM ── screening ── AltText rewritten alone, where that is asked for

What screening refuses is written once more with another seed before the next step stands in.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from vecap_tasks.config import ModelConfig
from vecap_tasks.core.manifest import Input, Made, ShardResult, canonical
from vecap_tasks.core.models import Checkpoint, ServedModel, find_model
from vecap_tasks.core.schemas import CAPTIONS
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.store import Local
from vecap_tasks.core.tables import connect, scan, write_rows
from vecap_tasks.core.verify import Recorded
from vecap_tasks.errors import DamagedError
from vecap_tasks.rewrite import screen
from vecap_tasks.rewrite.backends.sampling_params import Draw, Finished, Written
from vecap_tasks.rewrite.batches import Batches, warn_of_refusals
from vecap_tasks.rewrite.prompt import PLACES, Prompt, load_prompt
from vecap_tasks.rewrite.reuse import Captions, Earlier, Writer, Writers, find_captions, finished_captions
from vecap_tasks.rewrite.rows import Row, Seen, read_images
from vecap_tasks.rewrite.screen import Screened
from vecap_tasks.rewrite.second_try import Caption, write_captions
from vecap_tasks.rewrite.table import Meter, caption_table, count

log = logging.getLogger(__name__)
Texts = tuple[str, str]  # AltText and VeC


class Describes(Protocol):
    """A VLM of any backend: it returns a text for each picture, in their order, and tells of batches on the way.

    `decoders` is how many threads may decode pictures for it.
    """

    decoders: int

    def describe(self, asked: Iterator[tuple[Seen, Draw]], finished: Finished) -> list[Written]: ...


class Fuses(Protocol):
    """An LLM of any backend: it returns a text for each (AltText, VeC), in their order, and tells of batches too."""

    def fuse(self, asked: Sequence[tuple[Texts, Draw]], finished: Finished) -> list[Written]: ...


class Rewrite(Stage):
    """Writes `{shard}.parquet` with schema CAPTIONS: the accepted rows in key order, `shard_size` to a shard."""

    name = "rewrite"
    revision = 3
    runs_models = True
    upstream = ("crawl", "quality")
    rates = ("rows", "vec_tokens", "vecap_tokens")

    def identity(self) -> dict[str, Any]:
        made = super().identity()
        for role, model in self._models.items():
            made[role] |= {"digest": model.digest}
        for role, prompt in self._prompts.items():
            if role in made:
                made[role] |= {"prompt_digest": prompt.digest}
            else:
                made[f"{role}_prompt_digest"] = prompt.digest
        return made | {"screening": screen.REVISION}

    def inputs(self) -> list[Input]:
        models = [Input("model", found.name, found.digest, found.bytes) for found in self._models.values()]
        return [*models, *(Input("prompt", prompt.id, prompt.digest) for prompt in self._prompts.values())]

    def reads(self) -> list[Recorded]:
        verdicts = self.upstream_manifest("quality").file("verdicts.parquet")
        return [*self.upstream_files("crawl", self._tables), *self.upstream_files("quality", [verdicts])]

    def shards(self) -> list[str]:
        size = self.config.rewrite.shard_size
        accepted = self.upstream_manifest("quality").counters["accepted"]
        return [f"{number:05d}" for number in range(-(-accepted // size))]

    def process(self, shard: str, work: Path) -> Made:
        rows = self._rows(int(shard), work)
        section = self.config.rewrite
        batches = Batches(self, shard)
        meters = {"vlm": Meter(section.vlm.price), "llm": Meter(section.llm.price)}
        found = find_captions(self.store, self._earlier.files_with(rows), rows, self._writers, work)
        vec = found.vec | self._describe(rows, found.vec, batches, meters["vlm"])
        self._check("vlm", vec, batches)
        pairs = {(row.alttext, said): None for row in rows if row.alttext and (said := vec[row.sha256].text)}
        vecap = found.vecap | self._fuse("llm", list(pairs), found.vecap, batches, meters["llm"])
        self._check("llm", vecap, batches)
        alone: dict[str, Caption] = dict(found.alttext_rewritten)
        if "alttext" in self._prompts:
            texts = {(row.alttext, ""): None for row in rows if row.alttext and row.alttext not in alone}
            made = self._fuse("alttext", list(texts), {}, batches, meters["llm"])
            alone |= {alttext: caption for (alttext, _), caption in made.items()}
            self._check("llm", alone, batches)
        table = caption_table(rows, Captions(vec, vecap, alone), self._writers)
        write_rows(table.to_batches(), CAPTIONS, work / f"{shard}.parquet")
        notes = {"reused_vec": len(found.vec), "reused_vecap": len(found.vecap)}
        if "alttext" in self._prompts:
            notes["reused_alttext_rewritten"] = len(found.alttext_rewritten)
        if batches.taken_over:
            notes["taken_over"] = batches.taken_over
        for role, meter in meters.items():
            notes |= meter.notes(role)
            log.info("%s %s: %s", self.name, shard, meter.rates(role))
        return Made({f"{shard}.parquet": len(rows)}, count(table), notes=notes)

    def finish(self, results: list[ShardResult], work: Path) -> Made:
        """Keep what the servers say of the models that they serve, of today and thus not of the content."""
        servers = {role: settings for role, settings in self._settings.items() if settings.server is not None}
        if not servers:
            return Made({})
        from vecap_tasks.rewrite.openai_models import describe_server

        warn_of_refusals(self.name, (result.counters for result in results))
        served = {role: describe_server(settings) for role, settings in servers.items()}
        (work / "served.json").write_text(json.dumps(served, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return Made({}, attachments=("served.json",))

    # Who writes.

    @cached_property
    def _settings(self) -> dict[str, ModelConfig]:
        return {"vlm": self.config.rewrite.vlm, "llm": self.config.rewrite.llm}

    @cached_property
    def _models(self) -> dict[str, Checkpoint | ServedModel]:
        return {role: find_model(self.config, settings) for role, settings in self._settings.items()}

    @cached_property
    def _prompts(self) -> dict[str, Prompt]:
        names = {role: settings.prompt for role, settings in self._settings.items()}
        if self.config.rewrite.alttext_prompt is not None:
            names["alttext"] = self.config.rewrite.alttext_prompt
        folder = self.config.resolve_optional(self.config.rewrite.prompts)
        own = Path(folder) if folder else None
        return {role: load_prompt(name, own, PLACES[role]) for role, name in names.items()}

    @cached_property
    def _writers(self) -> Writers:
        # The picture that the VLM sees is the stored one: how it was stored belongs to the parameters.
        stored = self.config.crawl.image.identity() | {"revision": self.before("crawl").revision}
        limit = {"max_alttext_chars": self.config.rewrite.max_alttext_chars}
        return Writers(
            vec=self._writer("vlm", self._prompts["vlm"], {"image": stored}),
            vecap=self._writer("llm", self._prompts["llm"], limit),
            alttext_rewritten=self._writer("llm", self._prompts["alttext"], limit)
            if "alttext" in self._prompts
            else None,
        )

    def _writer(self, role: str, prompt: Prompt, more: dict[str, Any]) -> Writer:
        model = self._models[role]
        screening = screen.identity(self.config.rewrite.screen)
        parameters = self._settings[role].identity() | more | {"screening": screening, "stage": self.revision}
        del parameters["model"], parameters["prompt"]  # columns of their own
        return Writer(model.name, model.revision, prompt.name, canonical(parameters).decode())

    def _vlm(self) -> Describes:
        model, settings, prompt = self._models["vlm"], self._settings["vlm"], self._prompts["vlm"]
        if isinstance(model, ServedModel):
            from vecap_tasks.rewrite.openai_models import ServedVlm

            return ServedVlm(settings, prompt)
        from vecap_tasks.rewrite.vlm import load_vlm

        return load_vlm(model, settings, prompt)

    def _llm(self, prompt: Prompt) -> Fuses:
        model, settings, limit = self._models["llm"], self._settings["llm"], self.config.rewrite.max_alttext_chars
        if isinstance(model, ServedModel):
            from vecap_tasks.rewrite.openai_models import ServedLlm

            return ServedLlm(settings, prompt, limit)
        from vecap_tasks.rewrite.llm import load_llm

        return load_llm(model, settings, prompt, limit)

    # What is written about.

    @property
    def _tables(self) -> dict[str, str]:
        """The crawl's tables of shards with an image, and the tar beside each."""
        tars = self.upstream_manifest("crawl").files_ending(".tar")
        return {str(PurePosixPath(tar).with_suffix(".parquet")): tar for tar in tars}

    def _rows(self, number: int, work: Path) -> list[Row]:
        """Return the accepted rows of the shard, in the order of their keys."""
        beside = {self.store.query_path(table): tar for table, tar in self._tables.items()}
        verdicts = self.store.query_path(self.upstream_manifest("quality").file("verdicts.parquet"))
        size = self.config.rewrite.shard_size
        with connect(self.store, threads=1, work=work) as connection:
            lines = connection.execute(f"""
                SELECT key, uid, verdict.sha256, alttext, shard.filename
                FROM {scan([verdicts])} AS verdict
                LEFT JOIN (SELECT key, filename FROM {scan(list(beside))}) AS shard USING (key)
                WHERE accepted ORDER BY key LIMIT {size} OFFSET {number * size}""").fetchall()  # noqa: S608
        for key, *_, file in lines:
            if file is None:
                raise DamagedError(f"{verdicts} accepts row {key}, which no crawl shard has; run `vecap verify`")
        return [Row(key, uid, sha256, alttext, beside[file]) for key, uid, sha256, alttext, file in lines]

    @cached_property
    def _earlier(self) -> Earlier:
        verdicts = self.store.query_path(self.upstream_manifest("quality").file("verdicts.parquet"))
        return Earlier(self.store, finished_captions(self.store, self.version), verdicts)

    # What is written.

    def _describe(
        self, rows: Sequence[Row], known: Mapping[str, Caption], batches: Batches, meter: Meter
    ) -> dict[str, Caption]:
        """Return the VeC of the images that have none yet, by sha256."""
        first = {row.sha256: row for row in reversed(rows) if row.sha256 not in known}
        if not first:
            return {}
        wanted = sorted(first.values(), key=lambda row: row.key)
        prompt = self._prompts["vlm"]
        vlm = self._vlm()

        def ask(asked: Sequence[tuple[Row, Draw]], finished: Finished) -> list[Written]:
            begun = time.monotonic()
            written = vlm.describe(_pictures(self.upstream_file, asked, vlm.decoders), finished)
            meter.count(written, begun)
            return written

        def write(asked: Sequence[tuple[Row, Draw]]) -> list[Written]:
            return batches.write("vlm", self._settings["vlm"].batch_size, asked, lambda row: row.sha256, ask)

        def kept(row: Row, said: Written) -> Screened:
            return screen.screen_vec(said.text, said.ended, prompt.text, self.config.rewrite.screen)

        subjects = [(row, row.sha256) for row in wanted]
        captions = write_captions(subjects, self._settings["vlm"], prompt.digest, write, kept)
        return {row.sha256: caption for row, caption in zip(wanted, captions, strict=True)}

    def _check(self, role: str, captions: Mapping[Any, Caption], batches: Batches) -> None:
        """Raise VecapError where the server of *role* refused nearly all of a shard."""
        if self._settings[role].server is not None:
            batches.refusals.check(role, captions.values(), self.config.rewrite.max_refused)

    def _fuse(
        self, role: str, texts: Sequence[Texts], known: Mapping[Texts, Caption], batches: Batches, meter: Meter
    ) -> dict[Texts, Caption]:
        """Return what the LLM makes of (AltText, VeC), of those that have nothing yet; *role* names the prompt."""
        wanted = [pair for pair in texts if pair not in known]
        if not wanted:
            return {}
        prompt = self._prompts[role]
        llm = self._llm(prompt)

        def ask(asked: Sequence[tuple[Texts, Draw]], finished: Finished) -> list[Written]:
            begun = time.monotonic()
            written = llm.fuse(asked, finished)
            meter.count(written, begun)
            return written

        def write(asked: Sequence[tuple[Texts, Draw]]) -> list[Written]:
            return batches.write(role, self._settings["llm"].batch_size, asked, "\n".join, ask)

        def kept(pair: Texts, said: Written) -> Screened:
            return screen.screen_vecap(said.text, said.ended, prompt.text, *pair, self.config.rewrite.screen)

        subjects = [(pair, "\n".join(pair)) for pair in wanted]
        captions = write_captions(subjects, self._settings["llm"], prompt.digest, write, kept)
        return dict(zip(wanted, captions, strict=True))


def _pictures(local: Local, asked: Sequence[tuple[Row, Draw]], decoders: int) -> Iterator[tuple[Seen, Draw]]:
    """Give the picture of each row, read once for all its draws; those of a row stand together."""
    draws: dict[str, list[Draw]] = {}
    for row, one in asked:
        draws.setdefault(row.key, []).append(one)
    rows = dict.fromkeys(row for row, _ in asked)
    for seen in read_images(local, rows, decoders):
        for one in draws[seen.row.key]:
            yield seen, one
