"""Walks versions and stages back to what they were made from; everything is read and compared, each folder once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vecap_tasks.config import Config
from vecap_tasks.dataset.manifest import NAME, Input, Manifest, read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.verify import Damage, check_files
from vecap_tasks.dataset.version import DATASET_STAGES, Version, read_config, read_version
from vecap_tasks.errors import DamagedError, VecapError
from vecap_tasks.lineage.inputs import Inputs, named_inputs
from vecap_tasks.lineage.mixtures import mixture_nodes
from vecap_tasks.lineage.recorded import version_copy
from vecap_tasks.lineage.tree import Node
from vecap_tasks.stages import STAGES, registered_fingerprints
from vecap_tasks.tracking import Tracking

_MIXED = ("mixture", "version", "tars")  # kinds of a training's inputs that the node of its mixture tells of


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
        except DamagedError as error:
            return Node("version", name, None, problems=(str(error),))
        if version.folder in self.seen:
            return Node("version", name, None, "as above")
        self.seen.add(version.folder)
        manifests = {stage: read(self.store, f"{version.folder}/{stage}") for stage in DATASET_STAGES}
        sound = {stage: found for stage, found in manifests.items() if isinstance(found, Manifest)}
        below = [self.stage(version, "assemble", f"{version.folder}/assemble")]
        if self.tracking is not None and self.check and len(sound) == len(manifests):
            below.append(version_copy(self.tracking, version, sound))
        return Node("version", name, None, "", tuple(self._bound(version, sound)), children=tuple(below))

    def _bound(self, version: Version, manifests: Mapping[str, Manifest]) -> list[str]:
        """Return where `version.json` and the manifests do not say the same."""
        file = f"{version.folder}/version.json"
        last = manifests.get("assemble")
        if last is not None and last.fingerprint != version.fingerprint:
            return [f"{file} is bound to another fingerprint than what was assembled"]
        try:
            config = read_config(self.store, version)
        except DamagedError as error:
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
        problems = [f"{damage.path} {damage.problem}" for damage in self._damages(manifest)]
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

    def _damages(self, manifest: Manifest) -> list[Damage]:
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
        except DamagedError as error:
            return Node("crawl", folder, item.digest, problems=(str(error),))
        except VecapError as error:
            return Node("crawl", folder, item.digest, unchecked=str(error))
        return self.stage(version, "crawl", folder)


def _earlier_crawl(stage: str, item: Input) -> str | None:
    """Return the version whose crawl *item* is: one that rows were taken over from, or duplicates looked for in."""
    if stage != "crawl" or item.kind not in ("version", "dataset"):
        return None
    return item.name.removesuffix("/crawl")
