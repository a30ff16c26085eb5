"""The stage `train`. Each shard is one run (an arm and a seed) and outputs a folder that transformers can load."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import MixtureConfig, TarSource
from vecap_tasks.core.manifest import RECEIPTS, Input, Manifest, ShardOutput, ShardResult
from vecap_tasks.core.stage import Check, Stage
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.errors import CorruptError, VecapError
from vecap_tasks.train.checkpoint import parse_run, run_names

if TYPE_CHECKING:
    from vecap_tasks.train.checkpoint import Checkpoints, Speed, StepRecord, TrainingState
    from vecap_tasks.train.data.mixture import Mixture
    from vecap_tasks.train.live_logging import LiveLogger
    from vecap_tasks.train.throughput import Progress

THROUGHPUT_FILE = "throughput.jsonl"


@dataclass(frozen=True, slots=True)
class Summary:
    """The contents of a run's `training.json`. `samples` and `left_out` (no text for the arm) are per epoch."""

    arm: str
    seed: int
    samples: int
    left_out: int
    steps: int
    batch_size: int
    parameters: int
    final_loss: float
    logit_bias: float | None  # of the sigmoid loss


class Train(Stage):
    """Trains a CLIP model for each configured arm and seed."""

    name = "train"
    upstream = ("assemble",)
    on_workers = False
    keyed = True
    revision = 2
    rates = ("steps",)

    report: Callable[[Progress], None] | None = None  # called after each step, for a progress bar

    def identity(self) -> dict[str, Any]:
        from vecap_tasks.core.models import init_folder
        from vecap_tasks.core.preprocess import CLIP_STATISTICS, read_statistics

        section = self.config.training.identity()
        mixture = {"mixture": self._mixture.digest} if self._mixture else {}
        model = section["model"] | {"tokenizer": self._tokenizer_digest} | self._init_digests
        statistics = read_statistics(init_folder(self.config))
        if statistics != CLIP_STATISTICS:
            model |= {"statistics": asdict(statistics)}
        return section | {"model": model} | mixture

    def checks(self) -> list[Check]:
        from vecap_tasks.core.models import INIT_SETTINGS, init_digest, tokenizer_digest
        from vecap_tasks.train.data.mixture_builder import find_tars
        from vecap_tasks.train.memory import check_memory

        config = self.config.training
        sources = config.mixture.sources if isinstance(config.mixture, MixtureConfig) else []
        tars = [source.paths for source in sources if isinstance(source, TarSource)]
        return [
            ("train.model.tokenizer", partial(tokenizer_digest, self.config)),
            *((f"train.model.{setting}", partial(init_digest, self.config, setting)) for setting in INIT_SETTINGS),
            *(("train.mixture.sources", partial(find_tars, self.config, paths)) for paths in tars),
            ("train", partial(check_memory, config)),
        ]

    def inputs(self) -> list[Input]:
        from vecap_tasks.train.data.mixture_builder import mixture_inputs

        mixture = mixture_inputs(self._mixture) if self._mixture else []
        return [*self.loaded(), *mixture]

    def loaded(self) -> list[Input]:
        model = self.config.training.model
        inits = [
            Input("model", getattr(model, setting), digest) for setting, digest in self._init_digests.items() if digest
        ]
        return [Input("model", model.tokenizer, self._tokenizer_digest), *inits]

    @cached_property
    def _mixture(self) -> Mixture | None:
        from vecap_tasks.train.data.mixture_builder import load_mixture

        return load_mixture(self.config, self.version.name)

    @cached_property
    def _tokenizer_digest(self) -> str:
        from vecap_tasks.core.models import tokenizer_digest

        return tokenizer_digest(self.config)

    @cached_property
    def _init_digests(self) -> dict[str, str | None]:
        from vecap_tasks.core.models import INIT_SETTINGS, init_digest

        return {setting: init_digest(self.config, setting) for setting in INIT_SETTINGS}

    def reads(self) -> list[RecordedFile]:
        from vecap_tasks.train.data.mixture_builder import training_files

        return training_files(self.config, self.version)

    def check_reads(self, shard: str) -> None:
        """Do nothing: each training process checks the shards as it reads them."""

    def shards(self) -> list[str]:
        return run_names(self.config.training)

    def run(self, shard: str) -> ShardResult:
        result = super().run(shard)
        self.checkpoints(shard).remove()
        return result

    def commit(self) -> Manifest:
        manifest = super().commit()
        for shard in self.shards():  # left if the process was killed after the receipt was written
            self.checkpoints(shard).remove()
        self.store.remove_folder(self._features)
        return manifest

    def process(self, shard: str, work: Path) -> ShardOutput:
        """Train the run *shard* in this process, or in the configured number of processes.

        Raises VecapError if fewer than two samples have a text for the arm or if the loss is not finite, ConfigError if
        a step cannot fit into memory, and Interrupted on SIGTERM, after a checkpoint.
        """
        from vecap_tasks.core.preprocess import image_processor
        from vecap_tasks.train.data.tokenizer import load_tokenizer
        from vecap_tasks.train.memory import check_memory
        from vecap_tasks.train.model import create_model, export, image_statistics

        config = self.config.training
        check_memory(config)  # again: the run may have been checked on another machine
        arm, seed = parse_run(shard)
        self.upstream_manifest("assemble")
        try:
            state = self._train(shard)
        except CorruptError:
            self.checkpoints(shard).remove()  # they may depend on the corrupt file
            self.store.remove_folder(self._features)
            raise
        tokenizer = load_tokenizer(self.config)
        model = create_model(self.config, tokenizer, seed)
        model.load_state_dict(state.model | state.average)
        bias = state.objective.get("bias")
        summary = Summary(
            arm=arm,
            seed=seed,
            samples=state.data.samples,
            left_out=state.data.left_out,
            steps=len(state.records),
            batch_size=state.data.batch_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            final_loss=state.records[-1].loss,
            logit_bias=None if bias is None else float(bias),
        )
        folder = work / shard
        processor = image_processor(config.model.image_size, config.model.preprocess, image_statistics(self.config))
        export(model, tokenizer, processor, folder)
        write_lines(state.records, folder / "log.jsonl")
        (folder / "training.json").write_text(json.dumps(asdict(summary), indent=1, sort_keys=True) + "\n")
        files: dict[str, int | None] = {f"{shard}/{path.name}": None for path in sorted(folder.iterdir())}
        files[f"{shard}/log.jsonl"] = len(state.records)
        write_lines(state.speeds, work / THROUGHPUT_FILE)
        self.store.upload(self._throughput(shard), work / THROUGHPUT_FILE)
        counters = {"runs": 1, "steps": summary.steps, "samples": summary.samples, "left_out": summary.left_out}
        return ShardOutput(files, counters)

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        """Add the throughput of all runs as attachments, which are not part of the digest."""
        names = {shard: f"{shard}/{THROUGHPUT_FILE}" for shard in self.shards()}
        for shard, name in names.items():
            (work / name).parent.mkdir()
            (work / name).write_bytes(self.store.read(self._throughput(shard)))
        return ShardOutput({}, attachments=tuple(names.values()))

    def _throughput(self, shard: str) -> str:
        """Return the intermediate file with the throughput of the run *shard*; concurrent runs overwrite it."""
        return f"{self.folder}/{RECEIPTS}/throughput/{shard}.jsonl"

    def _train(self, shard: str) -> TrainingState:
        from vecap_tasks.train.distributed import ProcessGroup, training_device
        from vecap_tasks.train.launch import launch
        from vecap_tasks.train.trainer import train

        checkpoints = self.checkpoints(shard)
        if self.config.training.launch.single_process:
            process_group = ProcessGroup(training_device(self.config.training.device))
            with self.live_logger(shard) as live_logger:
                reports: list[Callable[[Progress], None]] = [live_logger, self.report] if self.report else [live_logger]
                return train(self.config, self.version, shard, process_group, checkpoints, reports)
        state = checkpoints.load()
        if state is None or not state.complete:  # manually started processes may have completed it
            del state
            launch(self, shard)
            state = checkpoints.load()
        if state is None or not state.complete:
            raise VecapError(
                f"train {shard}: the training processes left no final checkpoint; run the same command again to resume"
            )
        return state

    def live_logger(self, shard: str) -> LiveLogger:
        """Return the context manager that logs the progress of the run *shard* to MLflow."""
        from vecap_tasks.train.live_logging import LiveLogger

        return LiveLogger(self.config, self.version, shard, self.fingerprint)

    def checkpoints(self, shard: str) -> Checkpoints:
        """Return the checkpoints of the run *shard*."""
        from vecap_tasks.train.checkpoint import Checkpoints

        kept = self.config.training.checkpoints_kept
        return Checkpoints(self.store, f"{self.folder}/_checkpoints/{shard}", self._features, kept)

    @property
    def _features(self) -> str:
        """The folder of the outputs of a locked image tower, which all runs of the stage share."""
        return f"{self.folder}/_features"


def write_lines(records: Sequence[StepRecord | Speed], path: Path) -> None:
    """Write one JSON line per record."""
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
