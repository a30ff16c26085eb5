"""What lies in a dataset's folder and who refers to whom: the ground on which `vecap gc` decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vecap_tasks.dataset.manifest import Manifest, read_manifest
from vecap_tasks.dataset.store import Store, Stored
from vecap_tasks.dataset.verify import KEYED_STAGES, stage_folders
from vecap_tasks.dataset.version import DATASET_STAGES, Version, list_versions
from vecap_tasks.errors import DamagedError

_MIXTURES = "mixtures"
_STAGES = {*DATASET_STAGES, *KEYED_STAGES}


@dataclass(frozen=True, slots=True)
class Item:
    """A version that is not deleted, with its manifests by stage folder and all files in its folder."""

    version: Version
    manifests: dict[str, Manifest]
    files: tuple[Stored, ...]

    @property
    def published(self) -> Manifest | None:
        return self.manifests.get(f"{self.version.folder}/assemble")

    @property
    def published_at(self) -> float | None:
        """When it was published, seconds since the epoch; None while it is not."""
        found = self.published
        return None if found is None else datetime.fromisoformat(found.provenance["created"]).timestamp()

    @property
    def written(self) -> float:
        """When a file of it was last written, seconds since the epoch."""
        return max((file.written for file in self.files), default=0.0)

    def uses(self) -> dict[str, str]:
        """Return the other versions that this one needs, by name, each with what it needs of it."""
        found: dict[str, str] = {}
        for manifest in self.manifests.values():
            owner = manifest.location.split("/")[1]
            if owner != self.version.name:
                found.setdefault(owner, f"has the {manifest.stage} of {self.version.name}")
            for item in manifest.inputs:
                if item.kind == "version" or (item.kind == "dataset" and item.name.endswith("/crawl")):
                    name = item.name.removesuffix("/crawl")
                    if name != self.version.name:
                        found.setdefault(name, f"is what the {manifest.stage} of {self.version.name} was made from")
        return found


@dataclass(frozen=True, slots=True)
class Inventory:
    """A dataset's versions by name, the versions that mixtures name, and the folders that no version owns."""

    items: dict[str, Item]
    mixtures: dict[str, str]
    orphans: dict[str, tuple[Stored, ...]]

    def in_use(self, but: set[str]) -> dict[str, str]:
        """Return who of *but* is needed by a mixture or by a version that is not one of them, with the reason.

        Whom a needed one needs is needed too.
        """
        needed = {name: f"the mixture {mixture} names it" for name, mixture in self.mixtures.items() if name in but}
        users = [name for name in self.items if name not in but or name in needed]
        while users:
            for other, why in self.items[users.pop()].uses().items():
                if other in but and other not in needed:
                    needed[other] = f"it {why}"
                    users += [other] if other in self.items else []
        return needed


def take_inventory(store: Store, dataset: str) -> Inventory:
    """List the dataset. Raises DamagedError where a manifest or a mixture cannot be read: it may name any version."""
    by_folder: dict[str, list[Stored]] = {}
    for file in store.tree(dataset):
        by_folder.setdefault(file.path.split("/")[1], []).append(file)
    items = {}
    for version in list_versions(store, dataset):
        found = {folder: read_manifest(store, folder) for folder in stage_folders(store, version)}
        manifests = {folder: manifest for folder, manifest in found.items() if manifest is not None}
        items[version.name] = Item(version, manifests, tuple(by_folder.get(version.name, ())))
    orphans = {
        name: tuple(files)
        for name, files in by_folder.items()
        if name not in items and _of_stages(f"{dataset}/{name}", files)
    }
    return Inventory(items, _mixtures(store, dataset), orphans)


def _of_stages(folder: str, files: Sequence[Stored]) -> bool:
    """Say whether *folder* holds files of stages and no `version.json`: what a deletion left, or a lost race."""
    return all(file.path.removeprefix(f"{folder}/").split("/")[0] in _STAGES for file in files)


def _mixtures(store: Store, dataset: str) -> dict[str, str]:
    """Return the versions of *dataset* that recipes under this root name, each with the recipe's place."""
    named: dict[str, str] = {}
    for owner in store.folders():
        for file in store.files(f"{owner}/{_MIXTURES}"):
            if not file.endswith(".json"):
                continue
            place = f"{owner}/{_MIXTURES}/{file}"
            try:
                for source in json.loads(store.read(place))["sources"]:
                    if source.get("version") and source.get("dataset", owner) in (dataset, None):
                        named.setdefault(str(source["version"]), place.removesuffix(".json"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DamagedError(f"{place} is not a mixture: {error}; restore or remove it") from error
    return named
