"""What a model was trained on: the versions that the training's manifest names, with their runs in MLflow."""

from __future__ import annotations

from vecap_tasks.dataset.manifest import Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version
from vecap_tasks.lineage.notes import Place, TrainedOn
from vecap_tasks.lineage.tracking import Tracking

_DATA = ("version", "dataset", "mixture")  # kinds of a training's inputs that are data


def trained_on(tracking: Tracking, store: Store, version: Version, train: Manifest) -> list[TrainedOn]:
    """Return the version that *train* was given, or the sources of its mixture, in the manifest's order."""
    found = []
    for item in train.inputs:
        if item.kind == "stage" and item.name == "assemble":
            dataset, name = version.dataset, version.name
        elif item.kind == "version":
            dataset, _, name = item.name.rpartition("/")
        elif item.kind in _DATA:
            found.append(TrainedOn(item.name, item.digest, store.root, None))
            continue
        else:
            continue
        dataset = dataset or version.dataset
        run = tracking.find_version(dataset, name, item.digest)
        place = None if run is None else Place(str(run.info.experiment_id), str(run.info.run_id))
        found.append(TrainedOn(f"{dataset}/{name}", item.digest, store.root, place))
    return found
