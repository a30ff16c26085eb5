"""The stage `train`: one shard is one run, an arm with a seed; it leaves a folder that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Arm
from vecap_tasks.core.manifest import Input, Manifest, ShardOutput, ShardResult
from vecap_tasks.core.stage import Stage
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.errors import VecapError
from vecap_tasks.train.checkpoint import parse_run, run_names

if TYPE_CHECKING:
    from vecap_tasks.train.checkpoint import Checkpoints, Speed, State, StepRecord
    from vecap_tasks.train.data.mixture import Mixture
    from vecap_tasks.train.live_logging import LiveLogger
    from vecap_tasks.train.throughput import Progress

SPEEDS = "throughput.jsonl"


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
    logit_bias: float | None  # of the sigmoid loss: what is added to an image's and a text's scaled similarity


class Train(Stage):
    """Trains a CLIP model for every arm and seed of the configuration."""

    name = "train"
    upstream = ("assemble",)
    on_workers = False
    keyed = True
    revision = 2
    rates = ("steps",)

    report: Callable[[Progress], None] | None = None  # called at every step, for a progress bar

    def identity(self) -> dict[str, Any]:
        section = self.config.train.identity()
        mixed = {"mixture": self._mixture.digest} if self._mixture else {}
        model = section["model"] | {"tokenizer": self._tokenizer_digest, "init_from": self._start_digest}
        return section | {"model": model} | mixed

    def inputs(self) -> list[Input]:
        from vecap_tasks.train.data.mixture_builder import mixture_inputs

        mixed = mixture_inputs(self._mixture) if self._mixture else []
        model = self.config.train.model
        start = [Input("model", model.init_from, self._start_digest)] if model.init_from and self._start_digest else []
        return [Input("model", model.tokenizer, self._tokenizer_digest), *start, *mixed]

    @cached_property
    def _mixture(self) -> Mixture | None:
        from vecap_tasks.train.data.mixture_builder import open_mixture

        return open_mixture(self.config, self.version.name)

    @cached_property
    def _tokenizer_digest(self) -> str:
        from vecap_tasks.core.models import tokenizer_digest

        return tokenizer_digest(self.config)

    @cached_property
    def _start_digest(self) -> str | None:
        from vecap_tasks.core.models import init_digest

        return init_digest(self.config)

    def reads(self) -> list[RecordedFile]:
        from vecap_tasks.train.data.mixture_builder import training_files

        return training_files(self.config, self.version)

    def shards(self) -> list[str]:
        return run_names(self.config.train)

    def run(self, shard: str) -> ShardResult:
        result = super().run(shard)
        self.checkpoints(shard).remove()
        return result

    def commit(self) -> Manifest:
        manifest = super().commit()
        for shard in self.shards():  # a kill between a receipt and the removal leaves some
            self.checkpoints(shard).remove()
        return manifest

    def process(self, shard: str, work: Path) -> ShardOutput:
        """Train the arm and seed that *shard* names, in this process or in those that are configured.

        Raises VecapError when there are fewer than two samples with a text for the arm, when the loss is not finite,
        and when the process is told to end; then there is a checkpoint to go on from.
        """
        from vecap_tasks.core.preprocess import image_processor
        from vecap_tasks.train.data.tokenizer import load_tokenizer
        from vecap_tasks.train.model import export, open_model

        config = self.config.train
        arm, seed = parse_run(shard)
        self.upstream_manifest("assemble")
        state = self._trained(shard)
        tokenizer = load_tokenizer(self.config)
        model = open_model(self.config, tokenizer, seed)
        model.load_state_dict(state.model)
        bias = state.objective.get("bias")
        summary = Summary(
            arm=arm,
            seed=seed,
            samples=state.figures.samples,
            left_out=state.figures.left_out,
            steps=len(state.records),
            batch_size=state.figures.batch_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            final_loss=state.records[-1].loss,
            logit_bias=None if bias is None else float(bias),
        )
        folder = work / shard
        processor = image_processor(config.model.image_size, config.model.preprocess)
        export(model, tokenizer, processor, folder)
        write_lines(state.records, folder / "log.jsonl")
        (folder / "training.json").write_text(json.dumps(asdict(summary), indent=1, sort_keys=True) + "\n")
        files: dict[str, int | None] = {f"{shard}/{path.name}": None for path in sorted(folder.iterdir())}
        files[f"{shard}/log.jsonl"] = len(state.records)
        write_lines(state.speeds, work / SPEEDS)
        self.store.upload(f"{self.folder}/{shard}/{SPEEDS}", work / SPEEDS)
        counters = {"runs": 1, "steps": summary.steps, "samples": summary.samples, "left_out": summary.left_out}
        return ShardOutput(files, counters)

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Make the speeds of the runs, which no digest covers, attachments."""
        names = [f"{shard}/{SPEEDS}" for shard in self.shards()]
        for name in names:
            (work / name).parent.mkdir()
            (work / name).write_bytes(self.store.read(f"{self.folder}/{name}"))
        return ShardOutput({}, attachments=tuple(names))

    def _trained(self, shard: str) -> State:
        from vecap_tasks.train.distributed import Ranks, training_device
        from vecap_tasks.train.launch import launch
        from vecap_tasks.train.trainer import train

        checkpoints = self.checkpoints(shard)
        if self.config.train.launch.alone:
            ranks = Ranks(training_device(self.config.train.device))
            with self.live_logger(shard) as live_logger:
                reports: list[Callable[[Progress], None]] = [live_logger, self.report] if self.report else [live_logger]
                return train(self.config, self.version, shard, ranks, checkpoints, reports)
        state = checkpoints.load()
        if state is None or not state.complete:  # processes that were started by hand may have done it
            del state
            launch(self, shard)
            state = checkpoints.load()
        if state is None or not state.complete:
            raise VecapError(f"train {shard}: the processes ended without its last checkpoint; run the same again")
        return state

    def live_logger(self, shard: str) -> LiveLogger:
        """Return what tells MLflow how the run *shard* goes, for as long as it is entered."""
        from vecap_tasks.train.live_logging import LiveLogger

        return LiveLogger(self.config, self.version, shard, self.fingerprint)

    def checkpoints(self, shard: str) -> Checkpoints:
        """Return where the states of the unfinished run *shard* lie."""
        from vecap_tasks.train.checkpoint import Checkpoints

        return Checkpoints(self.store, f"{self.folder}/_checkpoints/{shard}", self.config.train.checkpoints_kept)


def write_lines(records: Sequence[StepRecord | Speed], path: Path) -> None:
    """Write one JSON line a record."""
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
