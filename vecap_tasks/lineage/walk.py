"""From a model or a version back to every crawled file, with seals, files and digests checked on the way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from vecap_tasks.config import Arm, Config
from vecap_tasks.dataset.manifest import NAME, Manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import Version, list_versions, read_version
from vecap_tasks.errors import DamagedError, VecapError
from vecap_tasks.lineage.recorded import Recorded, find_recorded, is_recorded, model_copy
from vecap_tasks.lineage.tree import Node, format_tree
from vecap_tasks.lineage.walker import Walker, read
from vecap_tasks.stages import load_stage
from vecap_tasks.tracking import open_tracking

__all__ = ["format_tree", "walk"]

_SHARD = re.compile(rf"(?:{'|'.join(get_args(Arm))})--?\d+")


def walk(config: Config, name: str, *, check: bool = True) -> Node:
    """Return the lineage of *name*: a version, VERSION/ARM-SEED, or what `find_recorded` takes, a name in MLflow.

    Without *check* the manifests alone are read, and no file. A mismatch stands in the node that it was found at. By
    a name in MLflow its copies of the files are checked too.
    Raises VecapError for a name that is none of these.
    """
    store = Store(config.resolve(config.root))
    if is_recorded(name):
        with open_tracking(config) as tracking:
            return _recorded(Walker(config, store, tracking, check), find_recorded(tracking, name))
    version, _, shard = name.rpartition("/")
    if not version and not _SHARD.fullmatch(name):
        return Walker(config, store, check=check).version(name)
    return _model(Walker(config, store, check=check), _trained(config, store, version, shard), shard)


@dataclass(frozen=True, slots=True)
class _Trained:
    """The folder of a stage `train` that holds a model. `recorded` is the model in MLflow that was asked for."""

    version: Version
    folder: str
    recorded: Recorded | None = None


def _recorded(walker: Walker, found: Recorded) -> Node:
    """Return the lineage of a model or run in MLflow, found by the tags that recording left."""
    config, store, tags = walker.config, walker.store, found.tags
    if tags.get("vecap.dataset") != config.dataset or "vecap.version" not in tags:
        raise VecapError(f"{found.name} is none of dataset {config.dataset}; give the configuration it was made with")
    shard = tags.get("vecap.run")
    if shard is None:
        return walker.version(tags["vecap.version"])
    name = f"{tags['vecap.version']}/{shard}"
    try:
        version = read_version(store, config.dataset, tags["vecap.version"])
    except DamagedError:  # the version's node tells of it
        return Node("model", name, None, children=(walker.version(tags["vecap.version"]),))
    recorded = tags["vecap.train"]
    for folder in _train_folders(store, version):
        manifest = read(store, folder)
        if isinstance(manifest, Manifest) and manifest.digest == recorded:
            return _model(walker, _Trained(version, folder, found), shard)
    problem = f"version {version.name} has no intact training with the digest that MLflow recorded, {recorded[:12]}"
    return Node("model", name, None, problems=(problem,), children=(walker.version(version.name),))


def _trained(config: Config, store: Store, version: str, shard: str) -> _Trained:
    """Find the one training that holds *shard*; the configuration's own where there are several."""
    versions = [read_version(store, config.dataset, version)] if version else list_versions(store, config.dataset)
    found = [
        _Trained(one, folder)
        for one in versions
        for folder in _train_folders(store, one)
        if any(store.files(f"{folder}/{shard}"))
    ]
    if len(found) > 1:
        found = [one for one in found if one.folder == load_stage("train", config, one.version).folder] or found
    if not found:
        where = f"version {version}" if version else f"dataset {config.dataset}"
        raise VecapError(f"{where} has no model {shard}; name it as VERSION/ARM-SEED, such as 2026-01-01/mixed-0")
    if len(found) > 1:
        several = ", ".join(f"{one.version.name}/{shard}" for one in found)
        raise VecapError(f"there are several models {shard} ({several}); name the version, or its id in MLflow")
    return found[0]


def _train_folders(store: Store, version: Version) -> list[str]:
    return [f"{version.folder}/train/{name}" for name in store.folders(f"{version.folder}/train")]


def _model(walker: Walker, trained: _Trained, shard: str) -> Node:
    """Return the node of a model: its training, what it was measured by, and MLflow's copy of it."""
    below = [walker.stage(trained.version, "train", trained.folder)]
    manifest = read(walker.store, trained.folder)
    problems: tuple[str, ...] = ()
    digest = None
    if isinstance(manifest, Manifest):
        digest = next((e.sha256 for e in manifest.files if e.path == f"{shard}/model.safetensors"), None)
        if digest is None:
            problems = (f"the training's manifest lists no weights for {shard}",)
        below += _evaluations(walker, trained, manifest)
        recorded = trained.recorded
        if walker.tracking is not None and walker.check and recorded is not None and recorded.model is not None:
            below.append(model_copy(walker.tracking, recorded.model, manifest, shard))
    name = f"{trained.version.name}/{shard}"
    note = f"as MLflow has it, {trained.recorded.name}" if trained.recorded else ""
    return Node("model", name, digest, note, problems, children=tuple(below))


def _evaluations(walker: Walker, trained: _Trained, train: Manifest) -> list[Node]:
    """Return the nodes of the stages `evaluate` that measured what *train* made."""
    place = f"{trained.version.folder}/evaluate"
    found = []
    for folder in (f"{place}/{name}" for name in walker.store.folders(place)):
        if not walker.store.exists(f"{folder}/{NAME}"):
            continue  # not finished
        manifest = read(walker.store, folder)
        # One that is damaged does not say what it measured; it is told of, for it may be this.
        if not isinstance(manifest, Manifest) or any(item.digest == train.digest for item in manifest.inputs):
            found.append(walker.stage(trained.version, "evaluate", folder))
    return found
