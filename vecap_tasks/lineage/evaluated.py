"""What MLflow gets to know of an evaluation: its sets as datasets, figures with their intervals, answers and sheets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.tracking import dataset_input

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

FOLDER = "evaluation"  # of a model's run, for the files of its evaluation
_NOT_COPIED = "metrics.json"  # its figures are the run's metrics


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


def with_ends(figures: Mapping[str, float], intervals: Mapping[str, list[float]]) -> dict[str, float]:
    """Return *figures* with the ends of their intervals beside them, as `name.low` and `name.high`."""
    made = dict(figures)
    for name, (low, high) in intervals.items():
        made |= {f"{name}.low": low, f"{name}.high": high}
    return made


def arm_values(arm: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an arm of `results.json`: means, ends of intervals, and deviations where there are any."""
    made = with_ends(arm["mean"], arm["intervals"])
    made |= {f"{name}.deviation": value for name, value in arm["deviation"].items() if value is not None}
    return {f"{arm['arm']}.{name}": value for name, value in made.items()}


def collect_evaluation(store: Store, evaluate: Manifest, shard: str, folder: Path) -> None:
    """Copy the answers of the model *shard* and its sheets of retrieved images into *folder*."""
    for entry in evaluate.files:
        path = PurePosixPath(entry.path)
        if path.parts[0] == shard and path.name != _NOT_COPIED:
            (folder / path.name).write_bytes(store.read(evaluate.file(entry.path)))
