"""Traces a model or version to all source files, and verifies digests and files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vecap_tasks.config import Config
from vecap_tasks.core.manifest import NAME, Input, Manifest, read_manifest
from vecap_tasks.core.mlflow_tracking import Tracking, open_tracking
from vecap_tasks.core.open_version import registered_fingerprints
from vecap_tasks.core.stage import STAGES, load_stage
from vecap_tasks.core.stage_records import MAX_SOURCES, StageSummary, read_summary
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import IMAGES, KEYED_STAGES, Check, Corruption, check_files
from vecap_tasks.core.version import DATASET_STAGES, Version, list_versions, read_config, read_version
from vecap_tasks.errors import CorruptError, VecapError, format_error
from vecap_tasks.lineage.mlflow_lookup import RegisteredModel, find_recorded, is_recorded, model_copy, version_copy
from vecap_tasks.lineage.tree import InputChecker, Node, format_tree, images_node, named_inputs
from vecap_tasks.train.data.mixture import (
    Mixture,
    RecordedTar,
    RecordedTars,
    RecordedVersion,
    mixture_file,
    read_mixture,
)
from vecap_tasks.train.data.mixture_builder import FoundTar, find_tars

__all__ = ["format_tree", "walk"]

_RUN = re.compile(r"[a-z][a-z0-9_]*--?[0-9]+")
_MIXTURE_KINDS = ("mixture", "version", "tars")  # input kinds that the node of a mixture covers


def mixture_nodes(walker: Walker, version: Version, train: Manifest) -> list[Node]:
    """Return the node of the mixture in the manifest *train*, with its sources; empty if it has no mixture."""
    inputs = InputChecker(walker.config, version, train)
    return [_mixture(walker, version, inputs, item) for item in train.inputs if item.kind == "mixture"]


def _mixture(walker: Walker, version: Version, inputs: InputChecker, item: Input) -> Node:
    file = mixture_file(version.dataset, item.name)
    try:
        mixture = read_mixture(walker.store, version.dataset, item.name)
        config = inputs.config
    except VecapError as error:
        return Node("mixture", file, item.digest, problems=(format_error(error),))
    problems = []
    if mixture.digest != item.digest:
        problems.append(f"digest is {mixture.digest[:12]}, recorded {item.digest[:12]}")
    children = tuple(_source_nodes(walker, config, mixture))
    size = len(mixture.to_json())
    return Node("mixture", file, item.digest, "", tuple(problems), files=1, bytes=size, children=children)


def _source_nodes(walker: Walker, config: Config, mixture: Mixture) -> list[Node]:
    return [
        _version(walker, config, part) if isinstance(part, RecordedVersion) else _tars(walker, config, part)
        for part in mixture.sources
    ]


def _version(walker: Walker, config: Config, part: RecordedVersion) -> Node:
    """Return the node of a version, in this store or another."""
    try:
        store = Store(config.resolve(part.root))
        if store.root != walker.store.root:
            walker = replace(walker, store=store, seen=set())
        node = walker.version(part.version, part.dataset)
    except (VecapError, OSError) as error:
        return Node("version", part.name, part.digest, unchecked=format_error(error))
    assembled = walker.read(f"{part.dataset}/{part.version}/assemble")
    if not isinstance(assembled, str) and assembled.digest != part.digest:  # the node has the problem of a string
        problem = f"digest is {assembled.digest[:12]}, the mixture recorded {part.digest[:12]}"
        return replace(node, problems=(*node.problems, problem))
    return node


def _tars(walker: Walker, config: Config, part: RecordedTars) -> Node:
    """Return the node of external tars. If the walk checks, each is compared with the mixture."""
    if not walker.check:
        shown = [Node("source", tar.path, None) for tar in part.tars[:MAX_SOURCES]]
        omitted = len(part.tars) - len(shown)
        return Node("tars", part.name, part.digest, children=(*shown, *([_omitted(omitted)] if omitted else [])))
    try:
        found = find_tars(config, part.paths)
    except VecapError as error:
        return Node("tars", part.name, part.digest, unchecked=format_error(error))
    return Node("tars", part.name, part.digest, children=tuple(_tar(tar, found.get(tar.path)) for tar in part.tars))


def _omitted(sources: int) -> Node:
    return Node("source", f"and {sources:,} more", None)


def _tar(recorded: RecordedTar, found: FoundTar | None) -> Node:
    if found is None:
        return Node("source", recorded.path, None, unchecked="does not exist")
    try:
        check = found.check
    except OSError as error:
        return Node("source", recorded.path, None, unchecked=f"cannot read it: {' '.join(str(error).split())}")
    if check != recorded.check:
        return Node("source", recorded.path, None, problems=("changed after the mixture was recorded",))
    return Node("source", recorded.path, None, f"unchanged, {check[:19]}", files=1, bytes=found.file.size)


def read(store: Store, folder: str) -> Manifest | str:
    """Return the manifest in *folder*, or the problem with it."""
    try:
        manifest = read_manifest(store, folder)
    except VecapError as error:
        return str(error)
    return manifest if manifest is not None else f"{folder}/{NAME} is missing"


@dataclass(slots=True)
class Walker:
    """One walk. Copies in MLflow are checked if `tracking` is set."""

    config: Config
    store: Store
    tracking: Tracking | None = None
    check: bool = True  # read all files in the manifests and MLflow; False: read only summaries of the manifests
    check_file: Check | None = None  # as in `check_files`
    seen: set[str] = field(default_factory=set)  # folders that are in the tree

    def read(self, folder: str) -> Manifest | StageSummary | str:
        """Return the manifest in *folder*, or the problem with it. Without `check`, return the summary of a manifest
        whose size grows with the number of rows."""
        if self.check or folder.split("/")[2] in KEYED_STAGES:
            return read(self.store, folder)
        try:
            return read_summary(self.store, folder) or f"{folder}/{NAME} is missing"
        except VecapError as error:
            return str(error)

    def version(self, name: str, dataset: str | None = None) -> Node:
        """Return the node of a published version. Raises VecapError if it does not exist."""
        try:
            version = read_version(self.store, dataset or self.config.dataset, name)
        except CorruptError as error:
            return Node("version", name, None, problems=(str(error),))
        if version.folder in self.seen:
            return Node("version", name, None, "as above")
        self.seen.add(version.folder)
        found = {stage: self.read(f"{version.folder}/{stage}") for stage in DATASET_STAGES}
        valid = {stage: record for stage, record in found.items() if not isinstance(record, str)}
        children = [self.stage(version, "assemble", f"{version.folder}/assemble")]
        manifests = {stage: record for stage, record in valid.items() if isinstance(record, Manifest)}
        if self.tracking is not None and len(manifests) == len(found):
            children.append(version_copy(self.tracking, version, manifests))
        return Node("version", name, None, "", tuple(self._version_problems(version, valid)), children=tuple(children))

    def _version_problems(self, version: Version, manifests: Mapping[str, Manifest | StageSummary]) -> list[str]:
        """Return the differences between `version.json` and the manifests."""
        file = f"{version.folder}/version.json"
        assembled = manifests.get("assemble")
        if assembled is not None and assembled.fingerprint != version.fingerprint:
            return [f"{file} has another fingerprint than the assemble manifest"]
        try:
            config = read_config(self.store, version)
        except CorruptError as error:
            return [str(error)]
        try:
            fingerprints = registered_fingerprints(version, config)
        except (KeyError, TypeError):
            return [f"{file} changed: its configuration is not valid"]
        changed = [stage for stage, manifest in manifests.items() if manifest.fingerprint != fingerprints[stage]]
        # A fingerprint covers the stages before it, so only the first one that differs was changed.
        return [f"{file} changed: its {stage} settings differ from the manifest" for stage in changed[:1]]

    def stage(self, version: Version, name: str, folder: str) -> Node:
        """Return the node of a stage of *version* with all its inputs."""
        self.seen.add(folder)
        record = self.read(folder)
        if isinstance(record, str):
            return Node(name, folder, None, problems=(record,))
        manifest = record if isinstance(record, Manifest) else None
        summary = StageSummary.from_manifest(record, 0) if isinstance(record, Manifest) else record
        problems = [
            f"{corruption.path} {corruption.problem}"
            for corruption in (self._check_files(manifest) if manifest is not None and self.check else ())
        ]
        mixtures = mixture_nodes(self, version, manifest) if manifest is not None and name == "train" else []
        children = list(mixtures)
        # The latest upstream stage comes first, so that each stage is nested below the one it feeds.
        upstream = [item for item in record.inputs if item.kind == "stage"]
        for item in sorted(upstream, key=lambda item: list(STAGES).index(item.name), reverse=True):
            stage_folder = self._find_stage(version, item)
            if stage_folder is None:
                problems.append(f"used another {item.name}, with digest {item.digest[:12]}")
            children += self._upstream(version, item.name, stage_folder)
        inputs = InputChecker(self.config, version, manifest) if manifest is not None and self.check else None
        for item in named_inputs(name, record.inputs):
            if item.kind == "stage" or (mixtures and item.kind in _MIXTURE_KINDS):
                continue
            previous = _previous_crawl(name, item)
            if item.kind == IMAGES and manifest is not None and self.check:
                children.append(images_node(self.store, item, manifest))
            elif previous is not None:
                children.append(self._crawl(version.dataset, item, previous))
            else:
                children.append(inputs.node(item) if inputs is not None else Node(item.kind, item.name, item.digest))
        omitted = summary.sources - sum(item.kind == "source" for item in record.inputs)
        if omitted:
            children.append(_omitted(omitted))
        note = f"{summary.files:,} files, {summary.bytes:,} bytes; code {summary.code}"
        return Node(
            name, folder, summary.digest, note, tuple(problems), files=summary.files, bytes=summary.bytes,
            children=tuple(children),
        )  # fmt: skip

    def _check_files(self, manifest: Manifest) -> list[Corruption]:
        return check_files(self.store, manifest, check=self.check_file)

    def _find_stage(self, version: Version, item: Input) -> str | None:
        """Return the folder of the stage *item*, or None if only another one exists."""
        root = f"{version.folder}/{item.name}"
        folders = [f"{root}/{name}" for name in self.store.folders(root)] if item.name == "train" else [root]
        records = {folder: self.read(folder) for folder in folders}
        for folder, record in records.items():
            if not isinstance(record, str) and record.digest == item.digest:
                return folder
        # A corrupt manifest may be the right one; its node reports the problem.
        return next((folder for folder, record in records.items() if isinstance(record, str)), None)

    def _upstream(self, version: Version, name: str, folder: str | None) -> list[Node]:
        folder = folder or f"{version.folder}/{name}"
        if folder in self.seen:
            return []
        if name == "assemble":
            return [self.version(version.name, version.dataset)]
        return [self.stage(version, name, folder)]

    def _crawl(self, dataset: str, item: Input, name: str) -> Node:
        """Return the node of an earlier version's crawl that this crawl used."""
        folder = f"{dataset}/{name}/crawl"
        record = self.read(folder)
        if not isinstance(record, str) and record.digest != item.digest:
            problem = f"digest is {record.digest[:12]}, recorded {item.digest[:12]}"
            return Node("crawl", folder, item.digest, problems=(problem,))
        if folder in self.seen:
            return Node("crawl", folder, item.digest, "as above")
        try:
            version = read_version(self.store, dataset, name)
        except CorruptError as error:
            return Node("crawl", folder, item.digest, problems=(str(error),))
        except VecapError as error:
            return Node("crawl", folder, item.digest, unchecked=str(error))
        return self.stage(version, "crawl", folder)


def _previous_crawl(stage: str, item: Input) -> str | None:
    """Return the version of a crawl that rows were reused from or duplicates were compared with, otherwise None."""
    if stage != "crawl" or item.kind not in ("version", "dataset"):
        return None
    return item.name.removesuffix("/crawl")


def walk(config: Config, name: str, *, check: bool = True, check_file: Check | None = None) -> Node:
    """Return the lineage of *name*: a version, a model, or an MLflow name (see `find_recorded`).

    A model is VERSION/ARM-SEED, or VERSION/TRAINING/ARM-SEED if the version has several trainings.

    Without *check*, only manifests and summaries are read, and at most `MAX_SOURCES` sources of a stage are named.
    Differences are in the `problems` of their nodes. For an MLflow name, the copies in MLflow are checked too. Raises
    VecapError if *name* does not exist. *check_file* is as in `check_files`.
    """
    store = Store(config.resolve(config.root))
    if is_recorded(name):
        with open_tracking(config, create=False) as tracking:
            return _recorded_node(Walker(config, store, tracking, check, check_file), find_recorded(tracking, name))
    walker = Walker(config, store, None, check, check_file)
    version, _, shard = name.rpartition("/")
    if not version and not is_model(name):
        return walker.version(name)
    return _model_node(walker, find_training(config, store, version, shard), shard)


def is_model(name: str) -> bool:
    """Return whether *name* is that of a trained model, ARM-SEED, such as `mixed-0`."""
    return _RUN.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Training:
    """The folder of a `train` stage. `recorded` is the requested model in MLflow, if any."""

    version: Version
    folder: str
    recorded: RegisteredModel | None = None


def _recorded_node(walker: Walker, model: RegisteredModel) -> Node:
    """Return the lineage of a model or run in MLflow, based on its tags."""
    config, store, tags = walker.config, walker.store, model.tags
    if tags.get("vecap.dataset") != config.dataset or "vecap.version" not in tags:
        raise VecapError(
            f"{model.name} does not belong to dataset {config.dataset}; give the configuration of its dataset"
        )
    shard = tags.get("vecap.run")
    if shard is None:
        return walker.version(tags["vecap.version"])
    name = f"{tags['vecap.version']}/{shard}"
    try:
        version = read_version(store, config.dataset, tags["vecap.version"])
    except CorruptError:  # the version's node reports it
        return Node("model", name, None, children=(walker.version(tags["vecap.version"]),))
    digest = tags["vecap.train"]
    for folder in _train_folders(store, version):
        manifest = read(store, folder)
        if isinstance(manifest, Manifest) and manifest.digest == digest:
            return _model_node(walker, Training(version, folder, model), shard)
    problem = f"version {version.name} has no verified training with digest {digest[:12]}, which MLflow recorded"
    return Node("model", name, None, problems=(problem,), children=(walker.version(version.name),))


def find_training(config: Config, store: Store, version_name: str, shard: str) -> Training:
    """Return the only training that contains *shard*, preferably the one of *config*. Raises VecapError otherwise."""
    dataset = config.dataset
    name, _, training = version_name.partition("/")
    versions = [read_version(store, dataset, name)] if name else list_versions(store, dataset)
    trainings = [
        Training(version, folder)
        for version in versions
        for folder in _train_folders(store, version)
        if any(store.files(f"{folder}/{shard}")) and training in ("", folder.rpartition("/")[2])
    ]
    if len(trainings) > 1:
        configured = [item for item in trainings if item.folder == load_stage("train", config, item.version).folder]
        trainings = configured or trainings
    if not trainings:
        scope = f"version {version_name}" if version_name else f"dataset {dataset}"
        raise VecapError(f"{scope} has no model {shard}; give VERSION/ARM-SEED, e.g. 2026-01-01/mixed-0")
    if len(trainings) > 1:
        names = ", ".join(f"{item.version.name}/{item.folder.rpartition('/')[2]}/{shard}" for item in trainings)
        raise VecapError(f"there are several models {shard}; give one of {names}, or an MLflow id")
    return trainings[0]


def trained_models(store: Store, version: Version) -> list[str]:
    """Return the names, as for `walk`, of the models in the finished and readable trainings of *version*."""
    folders = _train_folders(store, version)
    names = []
    for folder in folders:
        manifest = read(store, folder)
        if isinstance(manifest, Manifest) and manifest.location == folder:
            training = f"{folder.rpartition('/')[2]}/" if len(folders) > 1 else ""
            weights = [entry.path for entry in manifest.files if entry.path.endswith("/model.safetensors")]
            names += [f"{version.name}/{training}{path.removesuffix('/model.safetensors')}" for path in weights]
    return names


def _train_folders(store: Store, version: Version) -> list[str]:
    return [f"{version.folder}/train/{name}" for name in store.folders(f"{version.folder}/train")]


def _model_node(walker: Walker, training: Training, shard: str) -> Node:
    """Return the node of a model: its training, its evaluations, and its copy in MLflow."""
    children = [walker.stage(training.version, "train", training.folder)]
    manifest = read(walker.store, training.folder)
    problems: tuple[str, ...] = ()
    digest = None
    if isinstance(manifest, Manifest):
        digest = next((e.sha256 for e in manifest.files if e.path == f"{shard}/model.safetensors"), None)
        if digest is None:
            problems = (f"the training manifest has no weights for {shard}",)
        children += _evaluations(walker, training, manifest)
        recorded = training.recorded
        if walker.tracking is not None and walker.check and recorded is not None and recorded.model is not None:
            children.append(model_copy(walker.tracking, recorded.model, manifest, shard))
    name = f"{training.version.name}/{shard}"
    note = f"in MLflow: {training.recorded.name}" if training.recorded else ""
    return Node("model", name, digest, note, problems, children=tuple(children))


def _evaluations(walker: Walker, training: Training, train: Manifest) -> list[Node]:
    """Return the nodes of the evaluations of *train*."""
    root = f"{training.version.folder}/evaluate"
    nodes = []
    for folder in (f"{root}/{name}" for name in walker.store.folders(root)):
        if not walker.store.exists(f"{folder}/{NAME}"):
            continue  # not finished
        manifest = read(walker.store, folder)
        # A corrupt evaluation is included, because it may belong to this training.
        if not isinstance(manifest, Manifest) or any(item.digest == train.digest for item in manifest.inputs):
            nodes.append(walker.stage(training.version, "evaluate", folder))
    return nodes
