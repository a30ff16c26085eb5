"""What `vecap gc` may delete: the inventory of a dataset, the retention policy, and crash-safe deletion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vecap_tasks.config import RetentionConfig
from vecap_tasks.core.manifest import NAME, Manifest, read_manifest
from vecap_tasks.core.store import STAGING, Store, WrittenFile
from vecap_tasks.core.verify import KEYED_STAGES, stage_folders
from vecap_tasks.core.version import (
    DATASET_STAGES,
    Deletion,
    Version,
    deleted_versions,
    list_versions,
    purge,
    restore,
    tombstone,
)
from vecap_tasks.errors import CorruptError, VecapError

_MIXTURES = "mixtures"
_STAGES = {*DATASET_STAGES, *KEYED_STAGES}
_DAY = 86_400.0
_QUIET = 3_600.0  # seconds without a file written after which nobody is at work on a version
# Asked for published versions (name to digest): which must stay for a reason outside the store, by name, and why.
ExternalUses = Callable[[Mapping[str, str]], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Item:
    """A version that is not deleted, with its manifests by stage folder and all files in its folder."""

    version: Version
    manifests: dict[str, Manifest]
    files: tuple[WrittenFile, ...]

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
    orphans: dict[str, tuple[WrittenFile, ...]]

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
    """List the dataset. Raises CorruptError where a manifest or a mixture cannot be read: it may name any version."""
    by_folder: dict[str, list[WrittenFile]] = {}
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


def _of_stages(folder: str, files: Sequence[WrittenFile]) -> bool:
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
                raise CorruptError(f"{place} is not a mixture: {error}; restore or remove it") from error
    return named


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that may go. `what` is revision, unfinished, leftover, remains or staging; `path` is in the store."""

    what: str
    path: str
    why: str
    files: int
    bytes: int
    version: Version | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A version that the policy would let go and that something needs."""

    version: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What may go, and what stays though it is old."""

    removals: tuple[Removal, ...]
    kept: tuple[Kept, ...]

    @property
    def bytes(self) -> int:
        return sum(removal.bytes for removal in self.removals)


def plan_removals(store: Store, dataset: str, policy: RetentionConfig, elsewhere: ExternalUses, now: float) -> Plan:
    """Return what may go of *dataset* at the time *now* (seconds since the epoch). Nothing is changed.

    Raises CorruptError where the store cannot be read through, and whatever *elsewhere* raises.
    """
    inventory = take_inventory(store, dataset)
    limit = now - policy.keep_days * _DAY
    old = min(limit, now - _QUIET)
    candidates = {r.version.name: r for r in _versions(inventory, policy, now, limit) if r.version is not None}
    reasons = dict(elsewhere({name: r.digest for name, r in candidates.items() if r.digest is not None}))
    reasons |= _in_progress(inventory, now, limit)
    free = candidates.keys() - reasons.keys()
    reasons |= inventory.in_use(set(free))
    removals = [removal for name, removal in candidates.items() if name not in reasons]
    removals += [leftover for item in inventory.items.values() for leftover in _leftovers(item, now - _QUIET)]
    removals += _remains(store, dataset, inventory, old)
    removals += _staging(store, min(old, now - _DAY))
    return Plan(tuple(removals), tuple(Kept(name, why) for name, why in sorted(reasons.items())))


def _in_progress(inventory: Inventory, now: float, limit: float) -> dict[str, str]:
    """Return the unpublished versions older than *limit* that a run may still be writing, by name, and why they stay.

    One with no file but its `version.json` has nothing that a run could lose.
    """
    return {
        item.version.name: f"it was written to {(now - item.written) / 60:.0f} minutes ago and may be in progress; "
        "it stays for an hour"
        for item in inventory.items.values()
        if item.published is None and now - _QUIET <= item.written < limit and len(item.files) > 1
    }


def _versions(inventory: Inventory, policy: RetentionConfig, now: float, limit: float) -> Iterable[Removal]:
    old = min(limit, now - _QUIET)
    by_interval: dict[str, list[Item]] = {}
    for item in inventory.items.values():
        by_interval.setdefault(item.version.interval, []).append(item)
        if item.published is None and item.written < limit:
            days = (now - item.written) / _DAY
            yield _removal(
                "unfinished", item.version.folder, f"nothing was written to it for {days:.0f} days", item.files, item
            )
    for items in by_interval.values():
        done = sorted((i for i in items if i.published is not None), key=lambda item: item.version.revision)
        for number, item in enumerate(done[: -policy.keep_last]):
            newer = done[number + 1]
            since = newer.published_at or now
            if since < old and item.written < old:
                why = f"{newer.version.name} superseded it {(now - since) / _DAY:.0f} days ago"
                yield _removal("revision", item.version.folder, why, item.files, item)


def _leftovers(item: Item, before: float) -> Iterable[Removal]:
    """Give the working folders of stages that are committed, of a published version."""
    if item.published is None or item.written >= before:
        return
    for folder in item.manifests:
        own = [file for file in item.files if file.path.startswith(f"{folder}/_")]
        for name in sorted({file.path.removeprefix(f"{folder}/").split("/")[0] for file in own}):
            files = [file for file in own if file.path.startswith(f"{folder}/{name}/")]
            yield _removal("leftover", f"{folder}/{name}", "the stage is committed", files)


def _remains(store: Store, dataset: str, inventory: Inventory, old: float) -> Iterable[Removal]:
    for version, deletion in deleted_versions(store, dataset):
        files = store.tree(version.folder)
        if len(files) > 1 or deletion.digest is None:  # more than the tombstone, or one that need not stay
            yield Removal(
                "remains", version.folder, "its deletion was broken off", len(files), sum(file.bytes for file in files),
                version, deletion.digest,
            )  # fmt: skip
    for name, orphans in inventory.orphans.items():
        if all(file.written < old for file in orphans):
            yield _removal("remains", f"{dataset}/{name}", "it belongs to no version", orphans)


def _staging(store: Store, old: float) -> Iterable[Removal]:
    """Give what killed processes were about to publish, by what one of them had in hand."""
    by_entry: dict[str, list[WrittenFile]] = {}
    for file in store.tree(STAGING):
        by_entry.setdefault(file.path.split("/")[1], []).append(file)
    for name, files in by_entry.items():
        if all(file.written < old for file in files):
            yield _removal("staging", f"{STAGING}/{name}", "a process that wrote it was killed", files)


def _removal(what: str, path: str, why: str, files: Sequence[WrittenFile], item: Item | None = None) -> Removal:
    published = item.published if item else None
    version, digest = (item.version if item else None), (published.digest if published else None)
    return Removal(what, path, why, len(files), sum(file.bytes for file in files), version, digest)


def remove(store: Store, dataset: str, plan: Plan, elsewhere: ExternalUses, now: float) -> Plan:
    """Delete what *plan* lists, and return what went and what was kept after all.

    Safe to kill, and to repeat. Raises VecapError where somebody works on the dataset: its captions are being read.
    """
    planned = {removal.version.name for removal in plan.removals if removal.version is not None}
    if planned:
        for item in take_inventory(store, dataset).items.values():
            if item.published is None and item.written > now - _QUIET and item.version.name not in planned:
                raise VecapError(
                    f"version {item.version.name} is being made, and may read what would be deleted; wait until it is "
                    f"finished, or for an hour after its last try"
                )
    gone, kept = [], list(plan.kept)
    for removal in plan.removals:
        why = None
        if removal.version is not None:
            why = _remove_version(store, removal, removal.version, elsewhere, now)
        elif store.exists(removal.path):
            store.remove(removal.path)
        else:
            store.remove_folder(removal.path)
        if why is None:
            gone.append(removal)
        else:
            kept.append(Kept(removal.path.split("/")[1], why))
    return Plan(tuple(gone), tuple(kept))


def _remove_version(
    store: Store, removal: Removal, version: Version, elsewhere: ExternalUses, now: float
) -> str | None:
    """Delete *version*; return why it was not, where something came to need it since the plan was made."""
    if removal.what != "remains":
        when = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        try:
            tombstone(store, version, Deletion(when, removal.why, removal.digest))
        except FileNotFoundError:
            return None  # another `vecap gc` was faster
    # Again, now that nobody new can find it; that of a deletion that was broken off may have had no time for this.
    reasons = take_inventory(store, version.dataset).in_use({version.name})
    published = read_manifest(store, f"{version.folder}/assemble")
    if published is not None and removal.digest is None:
        reasons[version.name] = "it was published meanwhile"
    elif published is not None:
        reasons |= elsewhere({version.name: published.digest})
    if version.name in reasons:
        restore(store, version)
        return reasons[version.name]
    manifests = [file.path for file in store.tree(version.folder) if file.path.endswith(f"/{NAME}")]
    for manifest in sorted(manifests, key=lambda path: "/assemble/" not in path):  # what publishes it first
        store.remove(manifest)
    for name in store.folders(version.folder):
        store.remove_folder(f"{version.folder}/{name}")
    if removal.digest is None:
        purge(store, version)
    return None
