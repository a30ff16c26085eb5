"""The stage `evaluate`: one shard is one trained model; the end of the stage is the table of arms."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from vecap_tasks.dataset.manifest import Input, Manifest
from vecap_tasks.dataset.stage import Made, ShardResult, Stage
from vecap_tasks.dataset.store import Store
from vecap_tasks.errors import DamagedError
from vecap_tasks.evaluate.dataset import EvaluationSet, evaluation_digest, read_evaluation_set
from vecap_tasks.evaluate.report import (
    METRICS,
    RESULTS,
    Results,
    RunFigures,
    by_name,
    format_markdown,
    plot_arms,
    summarise,
)

log = logging.getLogger(__name__)


class Evaluate(Stage):
    """Measures retrieval and zero-shot classification of every trained model on the evaluation set."""

    name = "evaluate"
    upstream = ("train",)
    on_workers = False
    keyed = True

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"dataset": self._dataset_digest}

    def inputs(self) -> list[Input]:
        return [Input("dataset", self.config.evaluate.dataset, self._dataset_digest)]

    def shards(self) -> list[str]:
        return [f"{arm}-{seed}" for arm in self.config.train.arms for seed in self.config.train.seeds]

    def process(self, shard: str, work: Path) -> Made:
        """Write the figures of the model *shard*. Raises VecapError for an evaluation set that cannot be used."""
        import torch

        from vecap_tasks.evaluate.features import Encoder
        from vecap_tasks.evaluate.measure import measure

        torch.set_num_threads(self.config.train.threads)
        settings = self.config.evaluate
        given = self._dataset
        folder = work / "model"
        fetch_model(self.store, self.upstream_manifest("train"), shard, folder)
        figures = by_name(measure(Encoder(folder, settings.device, settings.batch_size), given))
        arm, _, seed = shard.partition("-")
        log.info("%s: %s", shard, "  ".join(f"{METRICS[name]} {100 * value:.1f}" for name, value in figures.items()))
        body = {"arm": arm, "seed": int(seed), "figures": figures}
        (work / shard).mkdir()
        (work / shard / "metrics.json").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
        return Made({f"{shard}/metrics.json": None}, {"models": 1})

    def finish(self, results: list[ShardResult], work: Path) -> Made:
        from vecap_tasks.evaluate.measure import chance

        given = self._dataset
        runs = []
        for shard in self.shards():
            body = json.loads(self.store.read(f"{self.folder}/{shard}/metrics.json"))
            runs.append(RunFigures(body["arm"], body["seed"], body["figures"]))
        made = Results(
            images=len(given.images),
            captions=len(given.captions),
            labels=len(given.labels),
            classes=len(given.classes),
            arms=summarise(runs),
            runs=tuple(runs),
            chance=by_name(chance(given)),
        )
        (work / RESULTS).write_text(made.to_json())
        (work / "results.md").write_text(format_markdown(made))
        plot_arms(made, work / "arms.png")
        counters = {"images": made.images, "captions": made.captions, "labels": made.labels}
        return Made({RESULTS: len(runs), "results.md": None, "arms.png": None}, counters)

    @property
    def _folder(self) -> Path:
        return Path(self.config.resolve(self.config.evaluate.dataset))

    @cached_property
    def _dataset(self) -> EvaluationSet:
        return read_evaluation_set(self._folder)

    @cached_property
    def _dataset_digest(self) -> str:
        return evaluation_digest(self._folder)


def fetch_model(store: Store, manifest: Manifest, shard: str, folder: Path) -> None:
    """Copy the model *shard* of the stage `train` into the new *folder*. Raises DamagedError for a changed file."""
    folder.mkdir()
    for entry in manifest.files:
        path = PurePosixPath(entry.path)
        if path.parts[0] != shard:
            continue
        data = store.read(manifest.file(entry.path))
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DamagedError(f"{manifest.file(entry.path)} was changed after it was published; train it again")
        (folder / path.name).write_bytes(data)
