"""The stage `evaluate`: one shard per trained model, then the results of all arms."""

from __future__ import annotations

import json
import logging
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vecap_tasks.core.manifest import Input, Manifest, ShardOutput, ShardResult
from vecap_tasks.core.stage import Check, Stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import RecordedFile, read_file
from vecap_tasks.errors import CorruptError
from vecap_tasks.evaluate.results import FILE as RESULTS

if TYPE_CHECKING:
    from vecap_tasks.evaluate.features import TowerOutputs
    from vecap_tasks.evaluate.sets import EvaluationSets

log = logging.getLogger(__name__)


class Evaluate(Stage):
    """Evaluates all trained models: retrieval, zero-shot classification, choices of captions, and linear probes."""

    name = "evaluate"
    upstream = ("train",)
    revision = 3  # 3: no captions with private data on example sheets
    on_workers = False
    keyed = True

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"sets": self._digests}

    def checks(self) -> list[Check]:
        from vecap_tasks.evaluate.sets.loader import set_checks

        return set_checks(self.config)

    def inputs(self) -> list[Input]:
        """Return the sets, with digests computed from all image bytes."""
        from vecap_tasks.evaluate.sets.loader import sets_digests

        digests = sets_digests(self._sets, cached=False)
        for name, known in self._digests.items():
            if digests[name] != known:
                raise CorruptError(f"evaluation set {name} changed during the run; restore it and run again")
        return [Input("dataset", name, digest) for name, digest in digests.items()]

    def reads(self) -> list[RecordedFile]:
        return []  # `fetch_model` verifies the files that it reads

    def shards(self) -> list[str]:
        return [f"{arm}-{seed}" for arm in self.config.training.arms for seed in self.config.training.seeds]

    def process(self, shard: str, work: Path) -> ShardOutput:
        """Write metrics, answers and example sheets of the model *shard*. Raises VecapError for an unusable set."""
        import torch

        from vecap_tasks.evaluate.charts import plot_retrieved
        from vecap_tasks.evaluate.features import Encoder, measure
        from vecap_tasks.evaluate.metrics import FILE, figures_of, write_answers

        torch.set_num_threads(self.config.training.threads)
        settings = self.config.evaluation
        folder = work / "model"
        fetch_model(self.store, self.upstream_manifest("train"), shard, folder)
        encoder = Encoder(folder, settings.device, settings.batch_size, self._tower_outputs)
        answers, features = measure(encoder, self._sets, list(self._digests.values()), settings.ties)
        figures = figures_of(answers)
        arm, _, seed = shard.rpartition("-")
        log.info("%s: %s", shard, "  ".join(f"{key} {100 * value:.1f}" for key, value in figures.items()))
        body = {"arm": arm, "seed": int(seed), "figures": figures}
        (work / shard).mkdir()
        (work / shard / "metrics.json").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
        files: dict[str, int | None] = {f"{shard}/metrics.json": None}
        files[f"{shard}/{FILE}"] = write_answers(answers, work / shard / FILE)
        for dataset, dataset_features in zip(self._sets.retrieval, features, strict=True):
            name = f"{shard}/retrieved{'-' if dataset.name else ''}{dataset.name}.png"
            plot_retrieved(dataset, dataset_features, work / name)
            files[name] = None
        return ShardOutput(files, {"models": 1})

    def finish(self, results: list[ShardResult], work: Path) -> ShardOutput:
        from vecap_tasks.evaluate.charts import plot_arms
        from vecap_tasks.evaluate.metrics import FILE, read_answers
        from vecap_tasks.evaluate.report import format_markdown
        from vecap_tasks.evaluate.results import summarize_sets

        runs = {}
        for shard in self.shards():
            arm, _, seed = shard.rpartition("-")
            path = f"{self.folder}/{shard}/{FILE}"
            runs[arm, int(seed)] = read_answers(self.store.read(path), path)
        settings = self.config.evaluation.bootstrap
        summary = summarize_sets(runs, self._sets, list(self._digests.values()), settings)
        (work / RESULTS).write_text(summary.to_json())
        (work / "results.md").write_text(format_markdown(summary))
        plot_arms(summary, work / "arms.png")
        counters = {
            "images": sum(size.images for size in summary.sets),
            "captions": sum(size.captions for size in summary.sets),
            "classes": sum(size.classes for size in summary.sets),
        }
        return ShardOutput({RESULTS: len(runs), "results.md": None, "arms.png": None}, counters)

    @cached_property
    def _sets(self) -> EvaluationSets:
        from vecap_tasks.evaluate.sets import read_sets

        return read_sets(self.config)

    @cached_property
    def _tower_outputs(self) -> TowerOutputs | None:
        """Outputs that all models of this process share, if their image tower is locked."""
        from vecap_tasks.evaluate.features import TowerOutputs

        return TowerOutputs() if self.config.training.model.vision_locked else None

    @cached_property
    def _digests(self) -> dict[str, str]:
        from vecap_tasks.evaluate.sets.loader import sets_digests

        return sets_digests(self._sets, cached=True)


def fetch_model(store: Store, manifest: Manifest, shard: str, folder: Path) -> None:
    """Copy the model *shard* of the stage `train` to the new *folder*. Raises CorruptError for a changed file."""
    folder.mkdir()
    for entry in manifest.files:
        path = PurePosixPath(entry.path)
        if path.parts[0] != shard:
            continue
        (folder / path.name).write_bytes(read_file(store, manifest, entry.path))
