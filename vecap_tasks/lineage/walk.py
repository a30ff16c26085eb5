"""From a model or a version back to every crawled file, with digests and files checked on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from vecap_tasks.config import Arm, Config
from vecap_tasks.core.manifest import NAME, Input, Manifest, read_manifest
from vecap_tasks.core.mlflow_tracking import Tracking, open_tracking
from vecap_tasks.core.open_version import registered_fingerprints
from vecap_tasks.core.stage import STAGES, load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import Corruption, check_files
from vecap_tasks.core.version import DATASET_STAGES, Version, list_versions, read_config, read_version
from vecap_tasks.errors import CorruptError, VecapError, format_error
from vecap_tasks.lineage.mlflow_lookup import RegisteredModel, find_recorded, is_recorded, model_copy, version_copy
from vecap_tasks.lineage.tree import Inputs, Node, format_tree, named_inputs
from vecap_tasks.train.data.mixture import Mixture, TarPart, TarsPart, VersionPart, mixture_file, read_mixture
from vecap_tasks.train.data.mixture_builder import FoundTar, find_tars

__all__ = ["format_tree", "walk"]

_MIXED = ("mixture", "version", "tars")  # kinds of a training's inputs that the node of its mixture tells of
_SHARD = re.compile(rf"(?:{'|'.join(get_args(Arm))})--?\d+")


def mixture_nodes(walker: Walker, version: Version, train: Manifest) -> list[Node]:
    """Return the node of the mixture that the manifest *train* names, with all its sources; none where it has none."""
    inputs = Inputs(walker.config, version, train)
    return [_mixture(walker, version, inputs, item) for item in train.inputs if item.kind == "mixture"]


def _mixture(walker: Walker, version: Version, inputs: Inputs, item: Input) -> Node:
    file = mixture_file(version.dataset, item.name)
    try:
        mixture = read_mixture(walker.store, version.dataset, item.name)
        config = inputs.config
    except VecapError as error:
        return Node("mixture", file, item.digest, problems=(format_error(error),))
    problems = []
    if mixture.digest != item.digest:
        problems.append(f"has the digest {mixture.digest[:12]}, {item.digest[:12]} was used")
    children = tuple(_children(walker, config, mixture))
    size = len(mixture.to_json())
    return Node("mixture", file, item.digest, "", tuple(problems), files=1, bytes=size, children=children)


def _children(walker: Walker, config: Config, mixture: Mixture) -> list[Node]:
    return [
        _version(walker, config, part) if isinstance(part, VersionPart) else _tars(config, part)
        for part in mixture.sources
    ]


def _version(walker: Walker, config: Config, part: VersionPart) -> Node:
    """Return the node of a version, in this store or in another one."""
    try:
        store = Store(config.resolve(part.root))
        if store.root != walker.store.root:
            walker = replace(walker, store=store, seen=set())
        node = walker.version(part.version, part.dataset)
    except (VecapError, OSError) as error:
        return Node("version", part.name, part.digest, unchecked=format_error(error))
    try:
        manifest = read_manifest(store, f"{part.dataset}/{part.version}/assemble")
    except CorruptError:
        return node  # which tells of it
    if manifest is not None and manifest.digest != part.digest:
        problem = f"has the digest {manifest.digest[:12]} now, the mixture was made of {part.digest[:12]}"
        return replace(node, problems=(*node.problems, problem))
    return node


def _tars(config: Config, part: TarsPart) -> Node:
    """Return the node of other people's tars, each compared with what the mixture recorded of it."""
    try:
        found = find_tars(config, part.paths)
    except VecapError as error:
        return Node("tars", part.name, part.digest, unchecked=format_error(error))
    return Node("tars", part.name, part.digest, children=tuple(_tar(tar, found.get(tar.path)) for tar in part.tars))


def _tar(recorded: TarPart, found: FoundTar | None) -> Node:
    if found is None:
        return Node("source", recorded.path, None, unchecked="it is not there any more")
    try:
        check = found.check
    except OSError as error:
        return Node("source", recorded.path, None, unchecked=f"it cannot be read: {' '.join(str(error).split())}")
    if check != recorded.check:
        return Node("source", recorded.path, None, problems=("was changed since the mixture was recorded",))
    return Node("source", recorded.path, None, f"the same as used, {check[:19]}", files=1, bytes=found.file.size)


def read(store: Store, folder: str) -> Manifest | str:
    """Return the manifest in *folder*, or what is wrong with it."""
    try:
        found = read_manifest(store, folder)
    except VecapError as error:
        return str(error)
    return found if found is not None else f"{folder}/{NAME} is missing"


@dataclass(slots=True)
class Walker:
    """One walk. `tracking` is where MLflow's copies are checked, None where it is not asked."""

    config: Config
    store: Store
    tracking: Tracking | None = None
    check: bool = True  # read every file that the manifests and MLflow name
    seen: set[str] = field(default_factory=set)

    def version(self, name: str, dataset: str | None = None) -> Node:
        """Return the node of a published version. Raises VecapError where there is none of that name."""
        try:
            version = read_version(self.store, dataset or self.config.dataset, name)
        except CorruptError as error:
            return Node("version", name, None, problems=(str(error),))
        if version.folder in self.seen:
            return Node("version", name, None, "as above")
        self.seen.add(version.folder)
        manifests = {stage: read(self.store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}
        verified = {stage: found for stage, found in manifests.items() if isinstance(found, Manifest)}
        below = [self.stage(version, "assemble", f"{version.folder}/assemble")]
        if self.tracking is not None and self.check and len(verified) == len(manifests):
            below.append(version_copy(self.tracking, version, verified))
        return Node("version", name, None, "", tuple(self._bound(version, verified)), children=tuple(below))

    def _bound(self, version: Version, manifests: Mapping[str, Manifest]) -> list[str]:
        """Return where `version.json` and the manifests do not say the same."""
        file = f"{version.folder}/version.json"
        last = manifests.get("assemble")
        if last is not None and last.fingerprint != version.fingerprint:
            return [f"{file} is bound to another fingerprint than what was assembled"]
        try:
            config = read_config(self.store, version)
        except CorruptError as error:
            return [str(error)]
        try:
            told = registered_fingerprints(version, config)
        except (KeyError, TypeError):
            return [f"{file} was changed: it does not say what it was made under"]
        others = [stage for stage, found in manifests.items() if found.fingerprint != told[stage]]
        # A stage's fingerprint covers those before it: the first that differs is where the change is.
        said = "was changed: its settings of {} are not those that it was made under"
        return [f"{file} {said.format(one)}" for one in others[:1]]

    def stage(self, version: Version, name: str, folder: str) -> Node:
        """Return the node of a stage of *version* with all that it was made from."""
        self.seen.add(folder)
        manifest = read(self.store, folder)
        if isinstance(manifest, str):
            return Node(name, folder, None, problems=(manifest,))
        problems = [f"{damage.path} {damage.problem}" for damage in self._corruptions(manifest)]
        mixed = mixture_nodes(self, version, manifest) if name == "train" else []
        children = list(mixed)
        # The last of the stages before it first, so that the chain is as deep as the work: crawl below quality.
        upstream = [item for item in manifest.inputs if item.kind == "stage"]
        for item in sorted(upstream, key=lambda item: list(STAGES).index(item.name), reverse=True):
            found = self._before(version, item)
            if found is None:
                problems.append(f"it was made from another {item.name}, with digest {item.digest[:12]}")
            children += self._upstream(version, item.name, found)
        inputs = Inputs(self.config, version, manifest)
        for item in named_inputs(name, manifest.inputs):
            if item.kind == "stage" or (mixed and item.kind in _MIXED):
                continue
            earlier = _earlier_crawl(name, item)
            if earlier is not None:
                children.append(self._crawl(version.dataset, item, earlier))
            else:
                children.append(inputs.node(item) if self.check else Node(item.kind, item.name, item.digest))
        count = len(manifest.files) + len(manifest.attachments)
        size = sum(entry.bytes for entry in (*manifest.files, *manifest.attachments))
        note = f"{count:,} files, {size:,} bytes; made by {manifest.provenance.get('code', 'unknown')}"
        return Node(
            name, folder, manifest.digest, note, tuple(problems), files=count, bytes=size, children=tuple(children)
        )

    def _corruptions(self, manifest: Manifest) -> list[Corruption]:
        return check_files(self.store, manifest) if self.check else []

    def _before(self, version: Version, item: Input) -> str | None:
        """Return the folder of the stage that *item* names, None where another one lies there."""
        place = f"{version.folder}/{item.name}"
        keyed = [f"{place}/{name}" for name in self.store.folders(place)] if item.name == "train" else [place]
        found = {folder: read(self.store, folder) for folder in keyed}
        for folder, manifest in found.items():
            if isinstance(manifest, Manifest) and manifest.digest == item.digest:
                return folder
        # One that is damaged may be it, and is told of where it stands in the tree.
        return next((folder for folder, manifest in found.items() if not isinstance(manifest, Manifest)), None)

    def _upstream(self, version: Version, name: str, folder: str | None) -> list[Node]:
        folder = folder or f"{version.folder}/{name}"
        if folder in self.seen:
            return []
        if name == "assemble":
            return [self.version(version.name, version.dataset)]
        return [self.stage(version, name, folder)]

    def _crawl(self, dataset: str, item: Input, name: str) -> Node:
        """Return the node of an earlier version's crawl that this one was made with."""
        folder = f"{dataset}/{name}/crawl"
        found = read(self.store, folder)
        if isinstance(found, Manifest) and found.digest != item.digest:
            problem = f"has the digest {found.digest[:12]} now, {item.digest[:12]} was used"
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


def _earlier_crawl(stage: str, item: Input) -> str | None:
    """Return the version whose crawl *item* is: one that rows were taken over from, or duplicates looked for in."""
    if stage != "crawl" or item.kind not in ("version", "dataset"):
        return None
    return item.name.removesuffix("/crawl")


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
    recorded: RegisteredModel | None = None


def _recorded(walker: Walker, found: RegisteredModel) -> Node:
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
    except CorruptError:  # the version's node tells of it
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
