"""What a model was trained on: the versions that the training's manifest names, with their runs in MLflow."""

from __future__ import annotations

from vecap_tasks.dataset.manifest import Input, Manifest
from vecap_tasks.dataset.version import Version
from vecap_tasks.lineage.notes import Place, TrainedOn
from vecap_tasks.lineage.tracking import Tracking

SOURCES = ("version", "tars")  # kinds of a training's inputs that are the sources of its mixture


def trained_on(tracking: Tracking, version: Version, train: Manifest) -> list[TrainedOn]:
    """Return the sources of the mixture that *train* names, in its order; the version alone where it names none."""
    mixed = [item for item in train.inputs if item.kind in SOURCES]
    if not mixed:
        alone = next(item for item in train.inputs if item.kind == "stage" and item.name == "assemble")
        mixed = [Input("version", version.folder, alone.digest)]
    return [TrainedOn(item.name, item.digest, _place(tracking, item)) for item in mixed]


def _place(tracking: Tracking, item: Input) -> Place | None:
    if item.kind != "version":
        return None
    dataset, _, version = item.name.rpartition("/")
    run = tracking.find_version(dataset, version, item.digest)
    return None if run is None else Place(str(run.info.experiment_id), str(run.info.run_id))
