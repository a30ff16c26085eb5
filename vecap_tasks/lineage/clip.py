"""The trained and evaluated models of a version as runs of the experiment `vecap/<dataset>/clip`.

One run holds the table of arms; below it stands one run a model, with its loss curve, its LoggedModel and its figures.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.throughput import throughput
from vecap_tasks.lineage.tracking import Tracking, airflow_tags, dataset_input, open_tracking
from vecap_tasks.stages import load_stage

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel

_CURVES = ("loss", "learning_rate", "logit_scale", "gradient_norm")
_NO_MODEL_NAME = re.compile(r"[^A-Za-z0-9_-]")


def record_clip(config: Config, version: Version, tags: Mapping[str, str] | None = None) -> str:
    """Record the models of *version* under *config* in MLflow, unless they are there, and return the arms' run id.

    Raises VecapError when they are not trained and evaluated, or MLflow does not answer.
    """
    store = Store(config.resolve(config.root))
    evaluate = load_stage("evaluate", config, version)
    figures = evaluate.manifest()
    if figures is None:
        raise VecapError(f"version {version.name} has no evaluate yet; run `vecap evaluate` first")
    measured = evaluate.upstream_manifest("train"), figures
    with open_tracking(config) as tracking:
        experiment = tracking.experiment(f"vecap/{version.dataset}/clip")
        found = tracking.find_run(experiment, measured[1].digest)
        if found is not None and found.data.tags.get("vecap.version") == version.name:
            return str(found.info.run_id)
        more = airflow_tags() | dict(tags or {})
        return _Recorder(tracking, experiment, store, version, *measured, more).record()


@dataclass(frozen=True, slots=True)
class _Recorder:
    tracking: Tracking
    experiment: str
    store: Store
    version: Version
    train: Manifest
    evaluate: Manifest
    tags: dict[str, str]

    def record(self) -> str:
        results = json.loads(self.store.read(self.evaluate.file("results.json")))
        said = self._tags("arms", self.evaluate.digest)
        client = self.tracking.client
        run = client.create_run(self.experiment, tags=said, run_name=f"{self.version.name} arms")
        run_id = str(run.info.run_id)
        datasets = self._datasets()
        self.tracking.inputs(run_id, list(datasets.values()))
        self.tracking.params(run_id, {"train": self.train.config, "evaluate": self.evaluate.config})
        for figures in results["runs"]:
            self._record_model(run_id, figures["arm"], figures["seed"], figures["figures"], datasets)
        values = {f"{arm['arm']}.{name}": value for arm in results["arms"] for name, value in arm["mean"].items()}
        spread = {
            f"{arm['arm']}.{name}.deviation": value
            for arm in results["arms"]
            for name, value in arm["deviation"].items()
            if value is not None
        }
        chance = {f"chance.{name}": value for name, value in results["chance"].items()}
        self._figures(run_id, values | spread | chance, None, None)
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            self._collect_arms(Path(folder))
            client.log_artifacts(run_id, folder)
        client.set_terminated(run_id, "FINISHED")
        return run_id

    def _record_model(
        self, parent: str, arm: str, seed: int, figures: dict[str, float], datasets: dict[str, DatasetInput]
    ) -> None:
        from mlflow.entities import LoggedModelOutput, Metric

        shard = f"{arm}-{seed}"
        client = self.tracking.client
        said = self._tags("model", f"{self.evaluate.digest[:32]}/{shard}")
        said |= {"mlflow.parentRunId": parent, "vecap.run": shard, "vecap.arm": arm, "vecap.seed": str(seed)}
        run = client.create_run(self.experiment, tags=said, run_name=f"{self.version.name} {shard}")
        run_id = str(run.info.run_id)
        summary = json.loads(self.store.read(self.train.file(f"{shard}/training.json")))
        params: dict[str, Any] = {"run": summary, "train": self.train.config}
        self.tracking.params(run_id, params)
        self.tracking.inputs(run_id, list(datasets.values()))
        model = self._model(run_id, shard, said)
        now = int(time.time() * 1000)
        lines = self.store.read(self.train.file(f"{shard}/log.jsonl")).splitlines()
        steps = [json.loads(line) for line in lines]
        curves = [Metric(name, step[name], now, step["step"]) for step in steps for name in _CURVES]
        self.tracking.metrics(run_id, curves + throughput(self.store, self.train, shard))
        self._figures(run_id, figures, model.model_id, datasets["evaluation"])
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=len(steps))])
        client.set_terminated(run_id, "FINISHED")

    def _model(self, run_id: str, shard: str, said: dict[str, str]) -> LoggedModel:
        client = self.tracking.client
        name = _NO_MODEL_NAME.sub("-", f"{self.version.dataset}-{self.version.name}-{shard}")
        own = {key: value for key, value in said.items() if key.startswith("vecap.")}
        model = client.create_logged_model(
            self.experiment, name=name, source_run_id=run_id, tags=own, model_type="CLIPModel"
        )
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            for entry in self.train.files:
                path = PurePosixPath(entry.path)
                if path.parts[0] == shard:
                    (Path(folder) / path.name).write_bytes(self.store.read(self.train.file(entry.path)))
            client.log_model_artifacts(model.model_id, folder)
        return model

    def _figures(
        self, run_id: str, figures: Mapping[str, float], model_id: str | None, dataset: DatasetInput | None
    ) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        name, digest = (dataset.dataset.name, dataset.dataset.digest) if dataset else (None, None)
        made = [
            Metric(key, value, now, 0, model_id=model_id, dataset_name=name, dataset_digest=digest, run_id=run_id)
            for key, value in figures.items()
        ]
        self.tracking.metrics(run_id, made)

    def _datasets(self) -> dict[str, DatasetInput]:
        """Return the version as the dataset of training, and the evaluation set."""
        assemble = next(item for item in self.train.inputs if item.kind == "stage" and item.name == "assemble")
        dataset = next(item for item in self.evaluate.inputs if item.kind == "dataset")
        name = f"{self.version.dataset}/{self.version.name}"
        place = {"store": self.store.root, "version": self.version.name}
        return {
            "training": dataset_input(name, assemble.digest, "training", place),
            "evaluation": dataset_input(f"{self.version.dataset}/evaluation", dataset.digest, "evaluation", {}),
        }

    def _tags(self, kind: str, digest: str) -> dict[str, str]:
        return self.tags | {
            "vecap.kind": kind,
            "vecap.dataset": self.version.dataset,
            "vecap.version": self.version.name,
            "vecap.digest": digest,
            "vecap.train": self.train.digest,
            "vecap.evaluate": self.evaluate.digest,
            "vecap.code": str(self.train.provenance.get("code", "unknown")),
        }

    def _collect_arms(self, folder: Path) -> None:
        """Copy the table and the plot of the arms, and both manifests; the models have artifacts of their own."""
        for stage, manifest in (("train", self.train), ("evaluate", self.evaluate)):
            (folder / stage).mkdir()
            (folder / stage / "manifest.json").write_bytes(manifest.to_json())
        for name in ("results.json", "results.md", "arms.png"):
            (folder / name).write_bytes(self.store.read(self.evaluate.file(name)))
