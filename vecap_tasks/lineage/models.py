"""Trained and evaluated models of a version as runs of the experiment `vecap/<dataset>/clip`."""

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
from vecap_tasks.core.manifest import Input, Manifest
from vecap_tasks.core.mlflow_tracking import Tracking, airflow_tags, dataset_input, open_tracking
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.mlflow_notes import Place, TrainedOn, arms_note, model_note, model_page, run_page
from vecap_tasks.lineage.versions import record_version
from vecap_tasks.train.live_logging import CURVES, end_live_runs, speed_metrics

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Metric


FOLDER = "evaluation"  # of a model's run, for the files of its evaluation
_NOT_COPIED = "metrics.json"  # its figures are the run's metrics
_MIXED = ("mixture", "version", "tars")  # kinds of a training's inputs: its mixture, and the sources of that
_NO_MODEL_NAME = re.compile(r"[^A-Za-z0-9_-]")


def evaluation_inputs(dataset: str, evaluate: Manifest) -> dict[str, DatasetInput]:
    """Return the evaluation sets as datasets of MLflow, by `retrieval` or `zero_shot`, and `:name` if they have one."""
    return {
        item.name: dataset_input(f"{dataset}/evaluation/{item.name}", item.digest, "evaluation", {})
        for item in evaluate.inputs
        if item.kind == "dataset"
    }


def set_of(metric: str) -> str:
    """Return the set that the figure *metric*, or the end of its interval, belongs to, as in `evaluation_inputs`."""
    name, _, key = metric.removesuffix(".low").removesuffix(".high").rpartition(".")
    task = "zero_shot" if key.startswith("zero_shot") else "retrieval"
    return f"{task}:{name}" if name else task


def with_intervals(figures: Mapping[str, float], intervals: Mapping[str, list[float]]) -> dict[str, float]:
    """Return *figures* with the ends of their intervals beside them, as `name.low` and `name.high`."""
    made = dict(figures)
    for name, (low, high) in intervals.items():
        made |= {f"{name}.low": low, f"{name}.high": high}
    return made


def arm_values(arm: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an arm of `results.json`: means, ends of intervals, and deviations where there are any."""
    made = with_intervals(arm["mean"], arm["intervals"])
    made |= {f"{name}.deviation": value for name, value in arm["deviation"].items() if value is not None}
    return {f"{arm['arm']}.{name}": value for name, value in made.items()}


def collect_evaluation(store: Store, evaluate: Manifest, shard: str, folder: Path) -> None:
    """Copy the answers of the model *shard* and its sheets of retrieved images into *folder*."""
    for entry in evaluate.files:
        path = PurePosixPath(entry.path)
        if path.parts[0] == shard and path.name != _NOT_COPIED:
            (folder / path.name).write_bytes(store.read(evaluate.file(entry.path)))


def throughput(store: Store, train: Manifest, shard: str) -> list[Metric]:
    """Return what the run *shard* of *train* measured of itself, at the times when it did."""
    lines = store.read(train.file(f"{shard}/throughput.jsonl")).splitlines()
    return [metric for line in lines for metric in speed_metrics(json.loads(line))]


def trained_on(tracking: Tracking, version: Version, train: Manifest) -> list[TrainedOn]:
    """Return the mixture that *train* names and its sources, in its order; the version alone where it names none."""
    mixed = [item for item in train.inputs if item.kind in _MIXED]
    if not mixed:
        alone = next(item for item in train.inputs if item.kind == "stage" and item.name == "assemble")
        mixed = [Input("version", version.folder, alone.digest)]
    return [TrainedOn(_name(version, item), item.digest, _place(tracking, item)) for item in mixed]


def _name(version: Version, item: Input) -> str:
    return f"{version.dataset}/mixtures/{item.name}" if item.kind == "mixture" else item.name


def _place(tracking: Tracking, item: Input) -> Place | None:
    if item.kind != "version":
        return None
    dataset, _, version = item.name.rpartition("/")
    run = tracking.find_version(dataset, version, item.digest)
    return None if run is None else Place(str(run.info.experiment_id), str(run.info.run_id))


def record_clip(config: Config, version: Version, tags: Mapping[str, str] | None = None) -> str:
    """Record the models of *version* under *config* in MLflow, unless they are there, and return the arms' run id.

    The version is recorded first where it is not, so that the models' pages lead to it. Raises VecapError when they
    are not trained and evaluated, or MLflow does not answer.
    """
    store = Store(config.resolve(config.root))
    evaluate = load_stage("evaluate", config, version)
    figures = evaluate.manifest()
    if figures is None:
        raise VecapError(f"version {version.name} has no evaluate yet; run `vecap evaluate` first")
    measured = evaluate.upstream_manifest("train"), figures
    record_version(config, version, tags)
    with open_tracking(config) as tracking:
        experiment = tracking.experiment(version.dataset, "clip")
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
        data = trained_on(self.tracking, self.version, self.train)
        self.tracking.inputs(run_id, [*self._training(data), *self._evaluation().values()])
        self.tracking.params(run_id, {"train": self.train.config, "evaluate": self.evaluate.config})
        for figures in results["runs"]:
            values = with_intervals(figures["figures"], figures["intervals"])
            self._record_model(run_id, figures["arm"], figures["seed"], values, data)
        chance = {f"chance.{name}": value for name, value in results["chance"].items()}
        for values in (*map(arm_values, results["arms"]), chance):
            self._figures(run_id, values, None, None)
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            self._collect_arms(Path(folder))
            client.log_artifacts(run_id, folder)
        self.tracking.describe(run_id, arms_note(data, self._sets, Place(self.experiment, run_id), said))
        client.set_terminated(run_id, "FINISHED")
        end_live_runs(self.tracking, self.experiment, self.train.fingerprint)
        return run_id

    def _record_model(self, parent: str, arm: str, seed: int, figures: dict[str, float], data: list[TrainedOn]) -> None:
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
        training, evaluation = self._training(data), self._evaluation()
        self.tracking.inputs(run_id, [*training, *evaluation.values()])
        model = self._model(run_id, shard, said)
        now = int(time.time() * 1000)
        lines = self.store.read(self.train.file(f"{shard}/log.jsonl")).splitlines()
        steps = [json.loads(line) for line in lines]
        curves = [Metric(name, step[name], now, step["step"]) for step in steps for name in CURVES]
        self.tracking.metrics(run_id, curves + throughput(self.store, self.train, shard))
        for name, dataset in evaluation.items():
            of_set = {key: value for key, value in figures.items() if set_of(key) == name}
            self._figures(run_id, of_set, model.model_id, dataset)
        if len(training) == 1:  # by a figure that was measured on it, the model's page names the data of training
            self._figures(run_id, {"final_loss": summary["final_loss"]}, model.model_id, training[0])
        page = model_page(self.experiment, model.model_id)
        note = model_note(shard, page, data, self._sets, Place(self.experiment, parent), said)
        self.tracking.describe(run_id, note)
        self.tracking.describe_model(model.model_id, note)
        with tempfile.TemporaryDirectory(prefix="vecap-") as folder:
            collect_evaluation(self.store, self.evaluate, shard, Path(folder))
            client.log_artifacts(run_id, folder, FOLDER)
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

    def _training(self, data: list[TrainedOn]) -> list[DatasetInput]:
        """Return what the models were trained on; the UI's button at each leads to the version's run."""
        return [
            dataset_input(
                one.name,
                one.digest,
                "training",
                {},
                run_page(one.place.experiment, one.place.run_id) if one.place else "",
            )
            for one in data
        ]

    def _evaluation(self) -> dict[str, DatasetInput]:
        return evaluation_inputs(self.version.dataset, self.evaluate)

    @property
    def _sets(self) -> list[Input]:
        return [item for item in self.evaluate.inputs if item.kind == "dataset"]

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
