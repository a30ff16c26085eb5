"""What a model was trained on: the versions that the training's manifest names, with their runs in MLflow."""

from __future__ import annotations

from vecap_tasks.dataset.manifest import Input, Manifest
from vecap_tasks.dataset.version import Version
from vecap_tasks.lineage.notes import Place, TrainedOn
from vecap_tasks.tracking import Tracking

_MIXED = ("mixture", "version", "tars")  # kinds of a training's inputs: its mixture, and the sources of that


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
