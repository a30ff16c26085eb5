"""The stage `train`: one shard is one run, an arm with a seed; it leaves a folder that transformers loads."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vecap_tasks.config import Arm
from vecap_tasks.dataset.manifest import Input, Manifest
from vecap_tasks.dataset.stage import Made, ShardResult, Stage
from vecap_tasks.errors import VecapError

if TYPE_CHECKING:
    from vecap_tasks.train.checkpoint import Checkpoint, StepRecord
    from vecap_tasks.train.loop import Progress
    from vecap_tasks.train.mixture import Mixture

log = logging.getLogger(__name__)

_LOG_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What `training.json` of a run says. `samples` are those of an epoch; `left_out` have no text for the arm."""

    arm: Arm
    seed: int
    samples: int
    left_out: int
    steps: int
    batch_size: int
    parameters: int
    final_loss: float


class Train(Stage):
    """Trains a CLIP model for every arm and seed of the configuration."""

    name = "train"
    upstream = ("assemble",)
    on_workers = False
    keyed = True
    rates = ("steps",)

    report: Callable[[Progress], None] | None = None  # called at every step, for a progress bar

    def identity(self) -> dict[str, Any]:
        section = self.config.train.identity()
        mixed = {"mixture": self._mixture.digest} if self._mixture else {}
        return section | {"model": section["model"] | {"tokenizer": self._tokenizer_digest}} | mixed

    def inputs(self) -> list[Input]:
        from vecap_tasks.train.recipe import mixture_inputs

        mixed = mixture_inputs(self._mixture) if self._mixture else []
        return [Input("model", self.config.train.model.tokenizer, self._tokenizer_digest), *mixed]

    @cached_property
    def _mixture(self) -> Mixture | None:
        from vecap_tasks.train.recipe import open_mixture

        return open_mixture(self.config, self.version.name)

    @cached_property
    def _tokenizer_digest(self) -> str:
        from vecap_tasks.train.tokenizer_files import tokenizer_digest

        return tokenizer_digest(self.config)

    def shards(self) -> list[str]:
        return [f"{arm}-{seed}" for arm in self.config.train.arms for seed in self.config.train.seeds]

    def run(self, shard: str) -> ShardResult:
        result = super().run(shard)
        self._checkpoint(shard).remove()
        return result

    def commit(self) -> Manifest:
        manifest = super().commit()
        for shard in self.shards():  # a kill between a receipt and the removal leaves one
            self._checkpoint(shard).remove()
        return manifest

    def process(self, shard: str, work: Path) -> Made:
        """Train the arm and seed that *shard* names.

        Raises VecapError when there are fewer than two samples with a text for the arm, and when the loss is not
        finite.
        """
        from vecap_tasks.preprocess import image_processor
        from vecap_tasks.train.data import open_training_data
        from vecap_tasks.train.loop import fit
        from vecap_tasks.train.model import export, new_model
        from vecap_tasks.train.tokenizer import load_tokenizer

        config = self.config.train
        arm, seed = parse_run(shard)
        self.upstream_manifest("assemble")
        tokenizer = load_tokenizer(self.config)
        model = new_model(config.model, tokenizer, seed)
        data = open_training_data(self.config, self.version, arm, seed, tokenizer)
        log.info("%s: %d samples, %d without a text left out", shard, data.samples, data.left_out)
        records = fit(shard, model, data, config, seed, self._checkpoint(shard), self._reporter())
        summary = Summary(
            arm=arm,
            seed=seed,
            samples=data.samples,
            left_out=data.left_out,
            steps=len(records),
            batch_size=data.batch_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            final_loss=records[-1].loss,
        )
        folder = work / shard
        processor = image_processor(config.model.image_size, config.model.preprocess)
        export(model.cpu(), tokenizer, processor, folder)
        write_log(records, folder / "log.jsonl")
        (folder / "training.json").write_text(json.dumps(asdict(summary), indent=1, sort_keys=True) + "\n")
        files: dict[str, int | None] = {f"{shard}/{path.name}": None for path in sorted(folder.iterdir())}
        files[f"{shard}/log.jsonl"] = len(records)
        counters = {"runs": 1, "steps": summary.steps, "samples": summary.samples, "left_out": summary.left_out}
        return Made(files, counters)

    def _checkpoint(self, shard: str) -> Checkpoint:
        from vecap_tasks.train.checkpoint import Checkpoint

        return Checkpoint(self.store, f"{self.folder}/_checkpoints/{shard}.pt")

    def _reporter(self) -> Callable[[Progress], None]:
        """Return what is called at every step: it logs a line now and then, and passes the step on."""
        last = time.monotonic()

        def report(progress: Progress) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _LOG_SECONDS or progress.record.step == progress.steps:
                last = now
                log.info("%s", progress)
            if self.report is not None:
                self.report(progress)

        return report


def parse_run(shard: str) -> tuple[Arm, int]:
    """Return arm and seed of a run's name, such as `mixed-0`. Raises VecapError for a name that is none."""
    arm, _, seed = shard.partition("-")
    for known in get_args(Arm):
        if arm == known and seed.lstrip("-").isdigit():
            return known, int(seed)
    raise VecapError(f"{shard!r} names no run; it is an arm and a seed, such as mixed-0")


def write_log(records: list[StepRecord], path: Path) -> None:
    """Write one JSON line a step. No line holds a time, so that the same run has the same bytes."""
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
