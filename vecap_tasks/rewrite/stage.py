"""The stage rewrite: generates a VeC and a VeCap for every accepted row, with provenance and screening results.

image ── VLM ── screening ── VeC ─┐
                                  ├─ LLM ── screening ── VeCap; fallback: VeC, then AltText, then none
AltText ── cleaning ──────────────┤
                                  └─ LLM ── screening ── rewritten AltText (optional)

A text that screening rejects is generated once more with another seed before the fallback applies.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from vecap_tasks.config import ModelConfig
from vecap_tasks.core.intermediate import Index, read_index
from vecap_tasks.core.manifest import Input, ShardOutput, ShardResult, canonical_json, digest
from vecap_tasks.core.models import Checkpoint, ServedModel, check_checkpoint, find_model
from vecap_tasks.core.stage import Check, Stage
from vecap_tasks.core.tables import connect, write_rows
from vecap_tasks.core.verify import RecordedFile, read_file
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.outages import retry_when_full
from vecap_tasks.rewrite import screen
from vecap_tasks.rewrite.accepted_rows import ImageInput, Row, Span, plan_spans, read_inputs, read_rows
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, OnFinished, Sampling
from vecap_tasks.rewrite.batches import Batches, warn_rejected_requests
from vecap_tasks.rewrite.caption_table import caption_table, count, count_samples
from vecap_tasks.rewrite.captioner import Captioner, Generate, TokenMeter
from vecap_tasks.rewrite.prompt import PLACEHOLDERS, Prompt, Texts, load_prompt
from vecap_tasks.rewrite.reuse import (
    CaptionProvenance,
    Captions,
    ProvenanceByText,
    find_texts,
    finished_captions,
    locate_captions,
    located_files,
)
from vecap_tasks.rewrite.screen import Screened
from vecap_tasks.rewrite.screen.talk import languages_without_lists

log = logging.getLogger(__name__)

SAMPLES_FILE = "samples.json"
_ACCEPTED = "accepted.json"  # of the stage quality
_LOCATED = "_captions"  # for each crawl shard, the files of other versions with captions of its images
_CURRENT = "current"  # has the name of the newest index


class VlmBackend(Protocol):
    """A VLM backend. `describe` returns a text for each image in order and reports finished batches.

    `decode_threads` is the number of image decoding threads.
    """

    decode_threads: int

    def describe(
        self, requests: Iterator[tuple[ImageInput, Sampling]], on_finished: OnFinished
    ) -> list[GeneratedText]: ...


class LlmBackend(Protocol):
    """An LLM backend. `fuse` returns a text for each (AltText, VeC) in order and reports finished batches."""

    def fuse(self, requests: Sequence[tuple[Texts, Sampling]], on_finished: OnFinished) -> list[GeneratedText]: ...


class Rewrite(Stage):
    """Writes `{shard}.parquet` (CAPTIONS): the accepted rows in key order, `shard_size` rows per shard.

    `samples.json` has the number of rows with a VeCap of each crawl shard in each shard.
    """

    name = "rewrite"
    revision = 5  # 5: jpeg_sha256, parameters without settings of the crawl
    runs_models = True
    upstream = ("crawl", "quality")
    rates = ("rows", "vec_tokens", "vecap_tokens")

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        for role, model in self._models.items():
            identity[role] |= {"digest": model.digest}
        for role, prompt in self._prompts.items():
            if role in identity:
                identity[role] |= {"prompt_digest": prompt.digest}
            else:
                identity[f"{role}_prompt_digest"] = prompt.digest
        return identity | {"screening": screen.rules_identity()}

    def loaded(self) -> list[Input]:
        models = [Input("model", found.name, found.digest, found.bytes) for found in self._models.values()]
        return [*models, *(Input("prompt", prompt.id, prompt.digest) for prompt in self._prompts.values())]

    def checks(self) -> list[Check]:
        checks: list[Check] = []
        for role, settings in self._settings.items():
            if settings.server is None:
                checks.append((f"rewrite.{role}.model", partial(check_checkpoint, self.config, settings.model)))
            elif (variable := settings.server.api_key_env) is not None:
                checks.append((f"rewrite.{role}.server.api_key_env", partial(_check_key, variable)))
        for role in self._prompt_names:
            setting = "rewrite.alttext_prompt" if role == "alttext" else f"rewrite.{role}.prompt"
            checks.append((setting, partial(self._prompt, role)))
        return checks

    def reads(self) -> list[RecordedFile]:
        accepted = self.upstream_manifest("quality").file(_ACCEPTED)
        return self.recorded([accepted, *self._tables, *map(self._verdicts, self._accepted)])

    def shard_reads(self, shard: str) -> list[RecordedFile]:
        return []  # `process` compares what it reads

    @cached_property
    def _accepted(self) -> dict[str, int]:
        """The number of accepted rows of each crawl shard, in order."""
        accepted: dict[str, int] = json.loads(read_file(self.store, self.upstream_manifest("quality"), _ACCEPTED))
        return accepted

    @cached_property
    def _spans(self) -> dict[str, Span]:
        """The crawl shards that each shard reads."""
        spans = plan_spans(self._accepted, self.config.captioning.shard_size)
        return {f"{number:05d}": span for number, span in enumerate(spans)}

    def shards(self) -> list[str]:
        return list(self._spans)

    def plan(self) -> list[str]:
        shards = super().plan()
        missing = languages_without_lists(self.config.captioning.screen.languages)
        if shards and missing:
            log.warning(
                "%s: screening has no lists for %s and finds refusals, preambles, and leaks there only in English",
                self.name,
                ", ".join(missing),
            )
        if shards:
            retry_when_full(self._locate_captions, self.store.scratch, is_long=True)
        return shards

    def process(self, shard: str, work: Path) -> ShardOutput:
        section = self.config.captioning
        rows = self.read_rows(shard, work)
        files = located_files(self._located, self._spans[shard].shards)
        self._read_check.check(files)
        stored = find_texts(self.store, [file.name for file in files], rows, self._provenances, work)
        found = stored.captions
        batches = Batches(self, shard, stored.answers)
        meters = {"vlm": TokenMeter(section.vlm.price), "llm": TokenMeter(section.llm.price)}
        images: dict[str, Row] = {}
        for row in rows:
            images.setdefault(row.jpeg_sha256, row)
        vec = self._vlm_captioner(batches, meters["vlm"]).write(images, found.vec)
        pairs = [(row.alttext, text) for row in rows if row.alttext and (text := vec[row.jpeg_sha256].text)]
        vecap = self._llm_captioner("llm", batches, meters["llm"]).write({pair: pair for pair in pairs}, found.vecap)
        rewritten = found.alttext_rewritten
        notes = {"reused_vec": len(found.vec), "reused_vecap": len(found.vecap.keys() & {*pairs})}
        if "alttext" in self._prompts:
            alttexts = {row.alttext: (row.alttext, "") for row in rows if row.alttext}
            notes["reused_alttext_rewritten"] = len(rewritten.keys() & alttexts.keys())
            rewritten = self._llm_captioner("alttext", batches, meters["llm"]).write(alttexts, rewritten)
        screen_alttext = partial(screen.screen_alttext, settings=section.screen)
        table = caption_table(rows, Captions(vec, vecap, rewritten), self._provenances, screen_alttext)
        write_rows(table.to_batches(), table.schema, work / f"{shard}.parquet")
        if batches.resumed:
            notes["taken_over"] = batches.resumed
        if batches.rescreened:
            notes["rescreened"] = batches.rescreened
        for role, meter in meters.items():
            notes |= meter.notes(role)
            log.info("%s %s: %s", self.name, shard, meter.rates(role))
        return ShardOutput({f"{shard}.parquet": len(rows)}, count(table), notes=notes)

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Count the rows with a VeCap of each crawl shard."""
        tables = [f"{self.folder}/{result.shard}.parquet" for result in results]
        with connect(self.store, work=work) as connection:
            samples = count_samples(connection, self.store, tables, len(next(iter(self._accepted), "")))
        (work / SAMPLES_FILE).write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")
        return ShardOutput({SAMPLES_FILE: None}, attachments=self.describe_servers(results, work))

    def describe_servers(self, results: list[ShardResult], work: Path) -> tuple[str, ...]:
        """Write what the servers report about their models as an attachment, outside the content digest."""
        servers = {role: settings for role, settings in self._settings.items() if settings.server is not None}
        if not servers:
            return ()
        from vecap_tasks.rewrite.openai_models import describe_server

        warn_rejected_requests(self.name, (result.counters for result in results))
        served = {role: describe_server(settings) for role, settings in servers.items()}
        (work / "served.json").write_text(json.dumps(served, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return ("served.json",)

    # Models, prompts and provenance.

    @cached_property
    def _settings(self) -> dict[str, ModelConfig]:
        return {"vlm": self.config.captioning.vlm, "llm": self.config.captioning.llm}

    @cached_property
    def _models(self) -> dict[str, Checkpoint | ServedModel]:
        return {role: find_model(self.config, settings) for role, settings in self._settings.items()}

    @cached_property
    def _prompts(self) -> dict[str, Prompt]:
        return {role: self._prompt(role) for role in self._prompt_names}

    @property
    def _prompt_names(self) -> dict[str, str]:
        names = {role: settings.prompt for role, settings in self._settings.items()}
        alttext = self.config.captioning.alttext_prompt
        return names if alttext is None else names | {"alttext": alttext}

    def _prompt(self, role: str) -> Prompt:
        folder = self.config.resolve_optional(self.config.captioning.prompts)
        return load_prompt(self._prompt_names[role], Path(folder) if folder else None, PLACEHOLDERS[role])

    @cached_property
    def _provenances(self) -> ProvenanceByText:
        limit = {"max_alttext_chars": self.config.captioning.max_alttext_chars}
        return ProvenanceByText(
            vec=self._model_provenance("vlm", self._prompts["vlm"], {}),
            vecap=self._model_provenance("llm", self._prompts["llm"], limit),
            alttext_rewritten=self._model_provenance("llm", self._prompts["alttext"], limit)
            if "alttext" in self._prompts
            else None,
        )

    def _model_provenance(self, role: str, prompt: Prompt, more: dict[str, Any]) -> CaptionProvenance:
        model = self._models[role]
        screening = screen.identity(self.config.captioning.screen)
        parameters = self._settings[role].parameters() | more | {"screening": screening}
        return CaptionProvenance(model.name, model.revision, prompt, canonical_json(parameters).decode())

    def _vlm(self) -> VlmBackend:
        model, settings, prompt = self._models["vlm"], self._settings["vlm"], self._prompts["vlm"]
        if isinstance(model, ServedModel):
            from vecap_tasks.rewrite.openai_models import ServedVlm

            return ServedVlm(settings, prompt)
        from vecap_tasks.rewrite.vlm import load_vlm

        return load_vlm(model, settings, prompt)

    def _llm(self, prompt: Prompt) -> LlmBackend:
        model, settings, limit = self._models["llm"], self._settings["llm"], self.config.captioning.max_alttext_chars
        if isinstance(model, ServedModel):
            from vecap_tasks.rewrite.openai_models import ServedLlm

            return ServedLlm(settings, prompt, limit)
        from vecap_tasks.rewrite.llm import load_llm

        return load_llm(model, settings, prompt, limit)

    # Inputs and captioners of a shard.

    def _verdicts(self, crawl_shard: str) -> str:
        return self.upstream_manifest("quality").file(f"verdicts/{crawl_shard}.parquet")

    def _table(self, crawl_shard: str) -> str:
        return self.upstream_manifest("crawl").file(f"{crawl_shard}.parquet")

    @cached_property
    def _tables(self) -> dict[str, str]:
        """Maps the crawl tables of shards with images to their tars."""
        tars = self.upstream_manifest("crawl").files_ending(".tar")
        return {str(PurePosixPath(tar).with_suffix(".parquet")): tar for tar in tars}

    def read_rows(self, shard: str, work: Path) -> list[Row]:
        """Return the accepted rows of *shard*; *work* is a folder for copies. Raises CorruptError."""
        kept = bool(self.config.crawl.source.kept_columns)
        size, span = self.config.captioning.shard_size, self._spans[shard]
        names = [table for table in map(self._table, span.shards) if table in self._tables]
        tables = {self._tables[file.name]: file for file in self.recorded(names)}
        verdicts = self.recorded(map(self._verdicts, span.shards))
        return read_rows(self.store, self.upstream_images, verdicts, tables, span.offset, size, work, kept=kept)

    def _locate_captions(self) -> None:
        """Find the files of other versions with captions of this crawl's images, if these files have changed.

        Once for all shards: a worker reads only the lists of its own crawl shards. Older indexes stay, because another
        run of this version may be reading them.
        """
        files = finished_captions(self.store, self.version)
        name = digest([[file.name, file.sha256] for file in files])[:16]
        folder = f"{self.folder}/{_LOCATED}"
        if read_index(self.store, f"{folder}/{name}") is None:
            shards = [shard for shard, count in self._accepted.items() if count]
            verdicts = dict(zip(shards, self.recorded(map(self._verdicts, shards)), strict=True))
            stored = [shard for shard in shards if self._table(shard) in self._tables]
            tables = dict(zip(stored, self.recorded(map(self._table, stored)), strict=True))
            with self.store.workspace() as work:
                locate_captions(self.store, f"{folder}/{name}", files, verdicts, tables, work)
        if self._current_index() != name:
            self.store.put(f"{folder}/{_CURRENT}", name.encode())

    def _current_index(self) -> str:
        """Return the name of the newest index; "" if there is none."""
        try:
            return self.store.read(f"{self.folder}/{_LOCATED}/{_CURRENT}").decode(errors="replace")
        except FileNotFoundError:
            return ""

    @cached_property
    def _located(self) -> Index:
        """The newest index of `_locate_captions`."""
        for _ in range(2):
            name = self._current_index()
            known = name in self.store.folders(f"{self.folder}/{_LOCATED}")
            index = read_index(self.store, f"{self.folder}/{_LOCATED}/{name}") if known else None
            if index is not None:
                return index
            self._locate_captions()
        raise VecapError(f"{self.folder}/{_LOCATED} was removed during the run; run the same command again")

    def _vlm_captioner(self, batches: Batches, meter: TokenMeter) -> Captioner[Row]:
        settings, prompt = self._settings["vlm"], self._prompts["vlm"]

        def load() -> Generate[Row]:
            vlm = self._vlm()
            return lambda requests, on_finished: vlm.describe(
                read_inputs(self.upstream_images, requests, vlm.decode_threads), on_finished
            )

        def screen_text(row: Row, generated: GeneratedText) -> Screened:
            return screen.screen_vec(generated.text, generated.ended, prompt.text, self.config.captioning.screen)

        return Captioner("vlm", settings, prompt, batches, meter, load, lambda row: row.jpeg_sha256, screen_text)

    def _llm_captioner(self, role: str, batches: Batches, meter: TokenMeter) -> Captioner[Texts]:
        """Return a captioner of (AltText, VeC) pairs; *role* names the prompt."""
        settings, prompt = self._settings["llm"], self._prompts[role]

        def screen_text(pair: Texts, generated: GeneratedText) -> Screened:
            return screen.screen_vecap(
                generated.text, generated.ended, prompt.text, *pair, self.config.captioning.screen
            )

        return Captioner(role, settings, prompt, batches, meter, lambda: self._llm(prompt).fuse, "\n".join, screen_text)


def _check_key(variable: str) -> None:
    if not os.environ.get(variable, "").strip():
        raise ConfigError(f"{variable}, which holds the API key, is not set; export {variable}=… first")
