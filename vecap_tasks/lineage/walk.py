"""From a model or a version back to every crawled file, with seals, files and digests checked on the way."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from vecap_tasks.config import Arm, Config
from vecap_tasks.dataset.manifest import NAME, Input, Manifest, read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.verify import check_files
from vecap_tasks.dataset.version import Version, list_versions, read_version
from vecap_tasks.errors import ConfigError, VecapError
from vecap_tasks.lineage.tracking import open_tracking
from vecap_tasks.lineage.tree import Node, format_tree
from vecap_tasks.stages import STAGES, load_stage

__all__ = ["format_tree", "walk"]

_MODEL_ID = re.compile(r"(?:models:/)?(m-[0-9a-f]{32})")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(rf"(?:{'|'.join(get_args(Arm))})--?\d+")


def walk(config: Config, name: str) -> Node:
    """Return the lineage of *name*: a version, VERSION/ARM-SEED, or a model's or run's id in MLflow.

    A mismatch stands in the node that it was found at. Raises VecapError for a name that is none of these.
    """
    store = Store(config.resolve(config.root))
    model = _MODEL_ID.fullmatch(name)
    if model is not None or _RUN_ID.fullmatch(name):
        return _recorded(config, store, model.group(1) if model else name)
    version, _, shard = name.rpartition("/")
    if not version and not _SHARD.fullmatch(name):
        return _version(config, store, read_version(store, config.dataset, name))
    return _model(config, store, _trained(config, store, version, shard), shard)


@dataclass(frozen=True, slots=True)
class _Trained:
    """The folder of a stage `train` that holds a model, and what MLflow says its manifest's digest is."""

    version: Version
    folder: str
    recorded: str | None = None


def _recorded(config: Config, store: Store, identity: str) -> Node:
    """Return the lineage of a model or run in MLflow, found by the tags that recording left."""
    from mlflow.exceptions import MlflowException

    with open_tracking(config) as tracking:
        try:
            if identity.startswith("m-"):
                tags = dict(tracking.client.get_logged_model(identity).tags)
            else:
                tags = dict(tracking.client.get_run(identity).data.tags)
        except MlflowException as error:
            raise VecapError(f"MLflow at {tracking.uri} has no {identity}; look for it in the UI") from error
    if tags.get("vecap.dataset") != config.dataset or "vecap.version" not in tags:
        raise VecapError(f"{identity} is no run of dataset {config.dataset}; give the configuration it was made with")
    version = read_version(store, config.dataset, tags["vecap.version"])
    shard = tags.get("vecap.run")
    if shard is None:
        return _version(config, store, version)
    recorded = tags["vecap.train"]
    for folder in _train_folders(store, version):
        manifest = _read(store, folder)
        if isinstance(manifest, Manifest) and manifest.digest == recorded:
            return _model(config, store, _Trained(version, folder, recorded), shard)
    problem = f"version {version.name} has no intact training with the digest that MLflow recorded, {recorded[:12]}"
    below = _version(config, store, version)
    return Node("model", f"{version.name}/{shard}", None, problems=(problem,), children=(below,))


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


def _model(config: Config, store: Store, trained: _Trained, shard: str) -> Node:
    walker = _Walker(config, store, trained.version)
    below = walker.stage("train", trained.folder)
    manifest = _read(store, trained.folder)
    problems: tuple[str, ...] = ()
    digest = None
    if isinstance(manifest, Manifest):
        digest = next((e.sha256 for e in manifest.files if e.path == f"{shard}/model.safetensors"), None)
        if digest is None:
            problems = (f"the training's manifest lists no weights for {shard}",)
    note = "as MLflow recorded it" if trained.recorded else ""
    return Node("model", f"{trained.version.name}/{shard}", digest, note, problems, (below,))


def _version(config: Config, store: Store, version: Version) -> Node:
    below = _Walker(config, store, version).stage("assemble", f"{version.folder}/assemble")
    manifest = _read(store, f"{version.folder}/assemble")
    problems: tuple[str, ...] = ()
    if isinstance(manifest, Manifest) and manifest.fingerprint != version.fingerprint:
        problems = ("version.json is bound to another fingerprint than what was assembled",)
    return Node("version", version.name, None, "", problems, (below,))


def _read(store: Store, folder: str) -> Manifest | str:
    """Return the manifest in *folder*, or what is wrong with it."""
    try:
        found = read_manifest(store, folder)
    except VecapError as error:
        return str(error)
    return found if found is not None else f"{folder}/{NAME} is missing"


@dataclass(slots=True)
class _Walker:
    """Walks the stages of one version, each once."""

    config: Config
    store: Store
    version: Version
    seen: set[str] = field(default_factory=set)

    def stage(self, name: str, folder: str) -> Node:
        """Return the node of a stage with all that it was made from."""
        self.seen.add(name)
        manifest = _read(self.store, folder)
        if isinstance(manifest, str):
            return Node(name, folder, None, problems=(manifest,))
        damages = check_files(self.store, manifest)
        problems = [f"{damage.path} {damage.problem}" for damage in damages]
        children = []
        # The last of the stages before it first, so that the chain is as deep as the work: crawl below quality.
        upstream = [item for item in manifest.inputs if item.kind == "stage"]
        for item in sorted(upstream, key=lambda item: list(STAGES).index(item.name), reverse=True):
            before = f"{self.version.folder}/{item.name}"
            found = _read(self.store, before)
            if isinstance(found, Manifest) and found.digest != item.digest:
                problems.append(f"it was made from another {item.name}, with digest {item.digest[:12]}")
            if item.name not in self.seen:
                children.append(self.stage(item.name, before))
        children += self._inputs(name, manifest)
        count = len(manifest.files) + len(manifest.attachments)
        size = sum(entry.bytes for entry in (*manifest.files, *manifest.attachments))
        note = f"{count:,} files, {size:,} bytes checked; made by {manifest.provenance.get('code', 'unknown')}"
        return Node(name, folder, manifest.digest, note, tuple(problems), tuple(children))

    def _inputs(self, name: str, manifest: Manifest) -> list[Node]:
        """Return the nodes of sources, models, prompts and data sets, compared with what lies there now."""
        nodes = [self._source(item) for item in manifest.inputs if item.kind == "source"]
        others = [item for item in manifest.inputs if item.kind not in ("stage", "source")]
        if not others:
            return nodes
        now: dict[tuple[str, str], str] = {}
        note = ""
        try:
            config = Config.model_validate(manifest.provenance["config"]).with_base(self.config.base)
            now = {(item.kind, item.name): item.digest for item in load_stage(name, config, self.version).inputs()}
        except (VecapError, OSError, KeyError, ValidationError) as error:
            note = f"not checked: {' '.join(str(error).split())[:200]}"
        return [*nodes, *(_compare(item, now.get((item.kind, item.name)), note) for item in others)]

    def _source(self, item: Input) -> Node:
        """Return the node of a crawled file: its bytes are read again where they lie on this machine."""
        if re.match(r"[a-z0-9]+://", item.name) and not item.name.startswith("file://"):
            return Node(item.kind, item.name, item.digest, "not checked: a site is not what it was")
        try:
            path = Path(self.config.resolve(item.name).removeprefix("file://"))
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, ConfigError) as error:
            return Node(item.kind, item.name, item.digest, f"not checked: {error}")
        return _compare(item, found, "")


def _compare(item: Input, found: str | None, note: str) -> Node:
    if found is None:
        return Node(item.kind, item.name, item.digest, note or "not checked: it is not here any more")
    if found != item.digest:
        problem = f"has the digest {found[:12]} now, {item.digest[:12]} was used"
        return Node(item.kind, item.name, item.digest, problems=(problem,))
    return Node(item.kind, item.name, item.digest, "the same as used")
