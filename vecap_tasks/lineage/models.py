"""Records the trained and evaluated models of a version as runs of the MLflow experiment `vecap/<dataset>/clip`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import Input, Manifest
from vecap_tasks.core.mlflow_tracking import Tracking, airflow_tags, dataset_input, open_tracking, retry_recording
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.core.verify import read_file
from vecap_tasks.core.version import Version
from vecap_tasks.errors import VecapError
from vecap_tasks.lineage.mlflow_notes import (
    RunLink,
    TrainingDataset,
    arms_note,
    model_note,
    model_page,
    page_tags,
    run_page,
)
from vecap_tasks.lineage.versions import commit_time, record_version
from vecap_tasks.train.checkpoint import parse_run
from vecap_tasks.train.live_logging import CURVES, delete_live_runs, speed_metrics

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, LoggedModel, Metric

    from vecap_tasks.evaluate.metrics import Answers

FOLDER = "evaluation"  # artifact folder for the evaluation files of a model's run
_METRICS_FILE = "metrics.json"  # not copied: recorded as metrics of the run
_MIXTURE_KINDS = ("mixture", "version", "tars")  # input kinds of a mixture and its sources
_TASKS = {"zero_shot": "zero_shot", "choice": "choices", "pair": "choices", "probe": "linear_probe"}  # by metric
_INVALID_NAME_CHARS = re.compile(r"[^A-Za-z0-9_-]")


def evaluation_inputs(dataset: str, evaluate: Manifest) -> dict[str, DatasetInput]:
    """Return the evaluation sets as MLflow datasets, by task (a field of `EvaluationSets`) or `task:name`."""
    return {
        item.name: dataset_input(f"{dataset}/evaluation/{item.name}", item.digest, "evaluation", {})
        for item in evaluate.inputs
        if item.kind == "dataset"
    }


def set_of(metric: str) -> str:
    """Return the key in `evaluation_inputs` of the set that *metric* (or its interval bound) was measured on."""
    name, _, key = metric.removesuffix(".low").removesuffix(".high").rpartition(".")
    task = next((task for prefix, task in _TASKS.items() if key.startswith(prefix)), "retrieval")
    return f"{task}:{name}" if name else task


def with_intervals(figures: Mapping[str, float], intervals: Mapping[str, list[float]]) -> dict[str, float]:
    """Return *figures* with the bounds of their intervals added as `name.low` and `name.high`."""
    values = dict(figures)
    for name, (low, high) in intervals.items():
        values |= {f"{name}.low": low, f"{name}.high": high}
    return values


def arm_values(arm: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an arm of `results.json`: means, interval bounds, and available standard deviations."""
    values = with_intervals(arm["mean"], arm["intervals"])
    values |= {f"{name}.deviation": value for name, value in arm["deviation"].items() if value is not None}
    return {f"{arm['arm']}.{name}": value for name, value in values.items()}


def collect_evaluation(store: Store, evaluate: Manifest, shard: str, folder: Path) -> None:
    """Copy the answers and retrieval sheets of the model *shard* into *folder*."""
    for entry in evaluate.files:
        path = PurePosixPath(entry.path)
        if path.parts[0] == shard and path.name != _METRICS_FILE:
            (folder / path.name).write_bytes(read_file(store, evaluate, entry.path))


def recorded_answers(tracking: Tracking, run_id: str) -> tuple[Answers, ...] | None:
    """Return the answers of the model of the run *run_id* in MLflow, None if the run has none."""
    from vecap_tasks.evaluate.metrics import FILE, read_answers

    path = f"{FOLDER}/{FILE}"
    if not any(artifact.path == path for artifact in tracking.client.list_artifacts(run_id, FOLDER)):
        return None
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with temporary_folder() as folder:
        file = Path(tracking.client.download_artifacts(run_id, path, str(folder)))
        return read_answers(file.read_bytes(), f"{path} of run {run_id}")


@dataclass(frozen=True, slots=True)
class Training:
    """The training of one model: `summary` is its `training.json`, `speeds` and `steps` are the lines of its throughput
    and its log."""

    summary: dict[str, Any]
    speeds: list[dict[str, Any]]
    steps: list[dict[str, Any]]

    @classmethod
    def read(cls, store: Store, train: Manifest, shard: str) -> Self:
        """Read the run *shard* of the manifest *train*."""
        speeds, steps = (
            [json.loads(line) for line in read_file(store, train, f"{shard}/{name}").splitlines()]
            for name in ("throughput.jsonl", "log.jsonl")
        )
        return cls(json.loads(read_file(store, train, f"{shard}/training.json")), speeds, steps)

    def time(self, step: int) -> int:
        """Return when *step* ended, interpolated, in milliseconds since the epoch. Step 0 is the start."""
        import numpy as np

        first = self.speeds[0]
        start = first["time"] - first["step"] * self.summary["batch_size"] / first["samples_per_second"]
        known = [0, *(speed["step"] for speed in self.speeds)]
        return int(1000 * np.interp(step, known, [start, *(speed["time"] for speed in self.speeds)]))

    @property
    def start(self) -> int:
        """The start of the first step, in milliseconds since the epoch."""
        return self.time(0)

    @property
    def end(self) -> int:
        """The end of the last step, in milliseconds since the epoch."""
        return self.time(len(self.steps))

    def metrics(self) -> list[Metric]:
        """Return the curves and the throughput as metrics with their original timestamps."""
        from mlflow.entities import Metric

        curves = [
            Metric(name, step[name], self.time(step["step"]), step["step"]) for step in self.steps for name in CURVES
        ]
        return curves + [metric for speed in self.speeds for metric in speed_metrics(speed)]


def training_datasets(tracking: Tracking, version: Version, train: Manifest) -> list[TrainingDataset]:
    """Return the mixture in the manifest *train* and its sources, or only the version if there is no mixture."""
    inputs = [item for item in train.inputs if item.kind in _MIXTURE_KINDS]
    if not inputs:
        assembled = next(item for item in train.inputs if item.kind == "stage" and item.name == "assemble")
        inputs = [Input("version", version.folder, assembled.digest)]
    return [TrainingDataset(_dataset_name(version, item), item.digest, _run_link(tracking, item)) for item in inputs]


def _dataset_name(version: Version, item: Input) -> str:
    return f"{version.dataset}/mixtures/{item.name}" if item.kind == "mixture" else item.name


def _run_link(tracking: Tracking, item: Input) -> RunLink | None:
    if item.kind != "version":
        return None
    dataset, _, version = item.name.rpartition("/")
    run = tracking.find_version(dataset, version, item.digest)
    return None if run is None else RunLink(str(run.info.experiment_id), str(run.info.run_id))


@retry_recording
def record_clip(config: Config, version: Version, tags: Mapping[str, str] | None = None) -> str:
    """Record the models of *version* in MLflow, unless they are recorded, and return the id of the run of all arms.

    Records the version first if needed, so that the models' descriptions can link to it. Raises VecapError if the
    version is not trained and evaluated, or if MLflow does not respond.
    """
    store = Store(config.resolve(config.root))
    stage = load_stage("evaluate", config, version)
    evaluate = stage.manifest()
    if evaluate is None:
        raise VecapError(f"version {version.name} has not been evaluated; run `vecap evaluate`")
    train = stage.upstream_manifest("train")
    record_version(config, version, tags)
    with open_tracking(config) as tracking:
        experiment = tracking.experiment(version.dataset, "clip")
        existing = tracking.find_run(experiment, evaluate.digest, version.name)
        if existing is not None:
            return str(existing.info.run_id)
        all_tags = airflow_tags() | dict(tags or {})
        return _Recorder(tracking, experiment, store, version, train, evaluate, all_tags).record()


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
        """Record the run of all arms, from the first training to the evaluation, and the runs of the models."""
        tags = self._tags("arms", self.evaluate.digest)
        tags |= page_tags(tags, f"versions/{self.version.name}")
        results = json.loads(read_file(self.store, self.evaluate, "results.json"))
        shards = [f"{run['arm']}-{run['seed']}" for run in results["runs"]]
        trainings = {shard: Training.read(self.store, self.train, shard) for shard in shards}
        start = min(training.start for training in trainings.values())
        end = max(self._evaluated, *(training.end for training in trainings.values()))
        with self.tracking.new_run(self.experiment, tags, f"{self.version.name} arms", start) as run_id:
            self._record_arms(run_id, tags, results, trainings)
            run_id = self.tracking.finish(run_id, end=end)
        delete_live_runs(self.tracking, self.experiment, self.train.fingerprint)
        return run_id

    def _record_arms(
        self, run_id: str, tags: dict[str, str], results: dict[str, Any], trainings: Mapping[str, Training]
    ) -> None:
        data = training_datasets(self.tracking, self.version, self.train)
        self.tracking.inputs(run_id, [*self._training_inputs(data), *self._evaluation_inputs().values()])
        self.tracking.params(run_id, {"train": self.train.config, "evaluate": self.evaluate.config})
        for (shard, training), figures in zip(trainings.items(), results["runs"], strict=True):
            values = with_intervals(figures["figures"], figures["intervals"])
            self._record_model(run_id, shard, training, values, data)
        chance = {f"chance.{name}": value for name, value in results["chance"].items()}
        for values in (*map(arm_values, results["arms"]), chance):
            self._log_figures(run_id, values, None, None)
        with temporary_folder() as folder:
            self._collect_arms(folder)
            self.tracking.client.log_artifacts(run_id, str(folder))
        self.tracking.describe(run_id, arms_note(data, self._sets, RunLink(self.experiment, run_id), tags))

    def _record_model(
        self, parent: str, shard: str, training: Training, figures: dict[str, float], data: list[TrainingDataset]
    ) -> None:
        from mlflow.entities import LoggedModelOutput

        arm, seed = parse_run(shard)
        client = self.tracking.client
        tags = self._tags("model", f"{self.evaluate.digest[:32]}/{shard}")
        tags |= {"mlflow.parentRunId": parent, "vecap.run": shard, "vecap.arm": arm, "vecap.seed": str(seed)}
        run = client.create_run(self.experiment, training.start, tags, f"{self.version.name} {shard}")
        run_id = str(run.info.run_id)
        params: dict[str, Any] = {"run": training.summary, "train": self.train.config}
        self.tracking.params(run_id, params)
        datasets, evaluation = self._training_inputs(data), self._evaluation_inputs()
        self.tracking.inputs(run_id, [*datasets, *evaluation.values()])
        model = self._log_model(run_id, shard, tags)
        page_tag = page_tags(tags, f"lineage?name={model.model_id}")
        for key, url in page_tag.items():
            client.set_tag(run_id, key, url)
            client.set_logged_model_tags(model.model_id, {key: url})
        self.tracking.metrics(run_id, training.metrics())
        for name, dataset in evaluation.items():
            set_figures = {key: value for key, value in figures.items() if set_of(key) == name}
            self._log_figures(run_id, set_figures, model.model_id, dataset)
        if len(datasets) == 1:  # the model's page shows the training dataset if it has a metric
            final = {"final_loss": training.summary["final_loss"]}
            self._log_figures(run_id, final, model.model_id, datasets[0], training.end)
        page = model_page(self.experiment, model.model_id)
        note = model_note(shard, page, data, self._sets, RunLink(self.experiment, parent), tags | page_tag)
        self.tracking.describe(run_id, note)
        self.tracking.describe_model(model.model_id, note)
        with temporary_folder() as folder:
            collect_evaluation(self.store, self.evaluate, shard, folder)
            client.log_artifacts(run_id, str(folder), FOLDER)
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=len(training.steps))])
        client.set_terminated(run_id, "FINISHED", training.end)

    def _log_model(self, run_id: str, shard: str, tags: dict[str, str]) -> LoggedModel:
        client = self.tracking.client
        name = _INVALID_NAME_CHARS.sub("-", f"{self.version.dataset}-{self.version.name}-{shard}")
        vecap_tags = {key: value for key, value in tags.items() if key.startswith("vecap.")}
        model = client.create_logged_model(
            self.experiment, name=name, source_run_id=run_id, tags=vecap_tags, model_type="CLIPModel"
        )
        with temporary_folder() as folder:
            for entry in self.train.files:
                path = PurePosixPath(entry.path)
                if path.parts[0] == shard:
                    (folder / path.name).write_bytes(read_file(self.store, self.train, entry.path))
            client.log_model_artifacts(model.model_id, str(folder))
        return model

    def _log_figures(
        self,
        run_id: str,
        figures: Mapping[str, float],
        model_id: str | None,
        dataset: DatasetInput | None,
        at: int | None = None,
    ) -> None:
        """Log *figures* of the time *at*, by default that of the evaluation, in milliseconds since the epoch."""
        from mlflow.entities import Metric

        at = at or self._evaluated
        name, digest = (dataset.dataset.name, dataset.dataset.digest) if dataset else (None, None)
        metrics = [
            Metric(key, value, at, 0, model_id=model_id, dataset_name=name, dataset_digest=digest, run_id=run_id)
            for key, value in figures.items()
        ]
        self.tracking.metrics(run_id, metrics)

    def _training_inputs(self, data: list[TrainingDataset]) -> list[DatasetInput]:
        """Return the training datasets; each links to the run of its version in the UI."""
        return [
            dataset_input(
                item.name,
                item.digest,
                "training",
                {},
                run_page(item.run.experiment, item.run.run_id) if item.run else "",
            )
            for item in data
        ]

    def _evaluation_inputs(self) -> dict[str, DatasetInput]:
        return evaluation_inputs(self.version.dataset, self.evaluate)

    @property
    def _evaluated(self) -> int:
        return commit_time(self.evaluate)

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
        """Copy the table and chart of the arms and both manifests into *folder*."""
        for stage, manifest in (("train", self.train), ("evaluate", self.evaluate)):
            (folder / stage).mkdir()
            (folder / stage / "manifest.json").write_bytes(manifest.to_json())
        for name in ("results.json", "results.md", "arms.png"):
            (folder / name).write_bytes(read_file(self.store, self.evaluate, name))
