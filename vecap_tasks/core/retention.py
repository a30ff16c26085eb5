"""What `vecap gc` may delete: the inventory of a dataset, the retention policy, and crash-safe deletion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vecap_tasks.config import RetentionConfig
from vecap_tasks.core.manifest import NAME, Manifest, map_concurrently, read_manifest
from vecap_tasks.core.store import STAGING, Store, WrittenFile
from vecap_tasks.core.verify import KEYED_STAGES, stage_folders
from vecap_tasks.core.version import (
    DATASET_STAGES,
    Deletion,
    Version,
    deleted_versions,
    finished,
    list_versions,
    purge,
    recorded_images,
    restore,
    tombstone,
)
from vecap_tasks.errors import CorruptError, VecapError

_MIXTURES = "mixtures"
_STAGES = {*DATASET_STAGES, *KEYED_STAGES}
_DAY = 86_400.0
_IDLE_SECONDS = 3_600.0  # a version without writes for this long is not in progress
# Takes published versions (name to digest); returns those in use outside the store, by name, with the reason.
ExternalUses = Callable[[Mapping[str, str]], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Item:
    """A version that is not deleted, with its manifests by stage folder and all files in its folder.

    `finished` is whether its last dataset stage is committed; a version without captions is never published. `images`
    is the earlier version whose image shards it may refer to, None if it has its own.
    """

    version: Version
    manifests: dict[str, Manifest]
    files: tuple[WrittenFile, ...]
    finished: bool
    images: str | None = None

    @property
    def published(self) -> Manifest | None:
        return self.manifests.get(f"{self.version.folder}/assemble")

    @property
    def published_at(self) -> float | None:
        """Publication time, seconds since the epoch; None if unpublished."""
        found = self.published
        return None if found is None else datetime.fromisoformat(found.provenance["created"]).timestamp()

    @property
    def written(self) -> float:
        """Time of the last write to a file, seconds since the epoch."""
        return max((file.written for file in self.files), default=0.0)

    def uses(self) -> dict[str, str]:
        """Return the other versions that this one needs, by name, with the reason."""
        found: dict[str, str] = {}
        if self.images is not None:
            found[self.images] = f"contains the images of {self.version.name}"
        for manifest in self.manifests.values():
            owner = manifest.location.split("/")[1]
            if owner != self.version.name:
                found.setdefault(owner, f"contains the {manifest.stage} files of {self.version.name}")
            for item in manifest.inputs:
                if item.kind == "version" or (item.kind == "dataset" and item.name.endswith("/crawl")):
                    name = item.name.removesuffix("/crawl")
                    if name != self.version.name:
                        found.setdefault(name, f"is an input of the {manifest.stage} stage of {self.version.name}")
        return found


@dataclass(frozen=True, slots=True)
class Inventory:
    """A dataset's versions by name, the versions used by mixtures, and folders without a version."""

    items: dict[str, Item]
    mixtures: dict[str, str]
    orphans: dict[str, tuple[WrittenFile, ...]]

    def in_use(self, candidates: set[str]) -> dict[str, str]:
        """Return the *candidates* that a mixture or a version outside *candidates* needs, with the reason.

        A candidate that a needed one depends on is needed too.
        """
        needed = {
            name: f"the mixture {mixture} uses it" for name, mixture in self.mixtures.items() if name in candidates
        }
        users = [name for name in self.items if name not in candidates or name in needed]
        while users:
            for other, why in self.items[users.pop()].uses().items():
                if other in candidates and other not in needed:
                    needed[other] = f"it {why}"
                    users += [other] if other in self.items else []
        return needed


def take_inventory(store: Store, dataset: str) -> Inventory:
    """List the dataset. Raises CorruptError if a manifest or mixture is unreadable, as it may name any version."""
    by_folder: dict[str, list[WrittenFile]] = {}
    for file in store.tree(dataset):
        by_folder.setdefault(file.path.split("/")[1], []).append(file)

    def item(version: Version) -> Item:
        found = {folder: read_manifest(store, folder) for folder in stage_folders(store, version)}
        manifests = {folder: manifest for folder, manifest in found.items() if manifest is not None}
        files = tuple(by_folder.get(version.name, ()))
        images = recorded_images(store, version)
        done = finished(store, version) is not None
        return Item(version, manifests, files, done, None if images is None else images["version"])

    items = {found.version.name: found for found in map_concurrently(item, list_versions(store, dataset))}
    orphans = {
        name: tuple(files)
        for name, files in by_folder.items()
        if name not in items and _has_only_stages(f"{dataset}/{name}", files)
    }
    return Inventory(items, _mixtures(store, dataset), orphans)


def _has_only_stages(folder: str, files: Sequence[WrittenFile]) -> bool:
    """Return whether *folder* holds only stage files, without a `version.json`: left by a deletion or a lost race."""
    return all(file.path.removeprefix(f"{folder}/").split("/")[0] in _STAGES for file in files)


def _mixtures(store: Store, dataset: str) -> dict[str, str]:
    """Return the versions of *dataset* that mixtures under this root use, each with the mixture's path."""
    named: dict[str, str] = {}
    for owner in store.folders():
        for file in store.files(f"{owner}/{_MIXTURES}"):
            if not file.endswith(".json"):
                continue
            path = f"{owner}/{_MIXTURES}/{file}"
            try:
                for source in json.loads(store.read(path))["sources"]:
                    if source.get("version") and source.get("dataset", owner) in (dataset, None):
                        named.setdefault(str(source["version"]), path.removesuffix(".json"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CorruptError(f"{path} is not a mixture: {error}; restore or delete it") from error
    return named


@dataclass(frozen=True, slots=True)
class Removal:
    """Something to delete. `what` is revision, unfinished, leftover, remains or staging; `path` is in the store."""

    what: str
    path: str
    why: str
    files: int
    bytes: int
    version: Version | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A version that the policy would delete but that something needs."""

    version: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What can be deleted, and the old versions that must be kept."""

    removals: tuple[Removal, ...]
    kept: tuple[Kept, ...]

    @property
    def bytes(self) -> int:
        return sum(removal.bytes for removal in self.removals)


def plan_removals(store: Store, dataset: str, policy: RetentionConfig, external_uses: ExternalUses, now: float) -> Plan:
    """Return what can be deleted of *dataset* at the time *now* (seconds since the epoch). Changes nothing.

    Raises CorruptError if the store cannot be read, and whatever *external_uses* raises.
    """
    inventory = take_inventory(store, dataset)
    limit = now - policy.keep_days * _DAY
    old = min(limit, now - _IDLE_SECONDS)
    candidates = {r.version.name: r for r in _versions(inventory, policy, now, limit) if r.version is not None}
    reasons = dict(external_uses({name: r.digest for name, r in candidates.items() if r.digest is not None}))
    reasons |= _in_progress(inventory, now, limit)
    free = candidates.keys() - reasons.keys()
    reasons |= inventory.in_use(set(free))
    removals = [removal for name, removal in candidates.items() if name not in reasons]
    removals += [leftover for item in inventory.items.values() for leftover in _leftovers(item, now - _IDLE_SECONDS)]
    removals += _remains(store, dataset, inventory, old)
    removals += _staging(store, min(old, now - _DAY))
    return Plan(tuple(removals), tuple(Kept(name, why) for name, why in sorted(reasons.items())))


def _in_progress(inventory: Inventory, now: float, limit: float) -> dict[str, str]:
    """Return the unfinished versions older than *limit* that a run may still be writing, by name, with the reason.

    A version with only its `version.json` has no work to lose.
    """
    return {
        item.version.name: f"it was written to {(now - item.written) / 60:.0f} minutes ago and may be in progress; "
        "it is kept for an hour"
        for item in inventory.items.values()
        if not item.finished and now - _IDLE_SECONDS <= item.written < limit and len(item.files) > 1
    }


def _versions(inventory: Inventory, policy: RetentionConfig, now: float, limit: float) -> Iterable[Removal]:
    old = min(limit, now - _IDLE_SECONDS)
    by_interval: dict[str, list[Item]] = {}
    for item in inventory.items.values():
        by_interval.setdefault(item.version.interval, []).append(item)
        if not item.finished and item.written < limit:
            days = (now - item.written) / _DAY
            yield _removal("unfinished", item.version.folder, f"last written {days:.0f} days ago", item.files, item)
    for items in by_interval.values():
        published = sorted((i for i in items if i.published is not None), key=lambda item: item.version.revision)
        for number, item in enumerate(published[: -policy.keep_last]):
            newer = published[number + 1]
            since = newer.published_at or now
            if since < old and item.written < old:
                why = f"superseded by {newer.version.name} {(now - since) / _DAY:.0f} days ago"
                yield _removal("revision", item.version.folder, why, item.files, item)


def _leftovers(item: Item, before: float) -> Iterable[Removal]:
    """Yield the working folders of committed stages of a published version."""
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
        if len(files) > 1 or deletion.digest is None:  # more than the tombstone, or one that is not needed
            yield Removal(
                "remains", version.folder, "its deletion was interrupted", len(files),
                sum(file.bytes for file in files), version, deletion.digest,
            )  # fmt: skip
    for name, orphans in inventory.orphans.items():
        if all(file.written < old for file in orphans):
            yield _removal("remains", f"{dataset}/{name}", "it belongs to no version", orphans)


def _staging(store: Store, old: float) -> Iterable[Removal]:
    """Yield the files that killed processes were about to publish, grouped by staging entry."""
    by_entry: dict[str, list[WrittenFile]] = {}
    for file in store.tree(STAGING):
        by_entry.setdefault(file.path.split("/")[1], []).append(file)
    for name, files in by_entry.items():
        if all(file.written < old for file in files):
            yield _removal("staging", f"{STAGING}/{name}", "the process that wrote it was killed", files)


def _removal(what: str, path: str, why: str, files: Sequence[WrittenFile], item: Item | None = None) -> Removal:
    published = item.published if item else None
    version, digest = (item.version if item else None), (published.digest if published else None)
    return Removal(what, path, why, len(files), sum(file.bytes for file in files), version, digest)


def remove(store: Store, dataset: str, plan: Plan, external_uses: ExternalUses, now: float) -> Plan:
    """Delete what *plan* lists; return what was deleted and what was kept.

    Safe to kill and to repeat. Raises VecapError if a run that may read a listed version is in progress.
    """
    planned = {removal.version.name for removal in plan.removals if removal.version is not None}
    if planned:
        for item in take_inventory(store, dataset).items.values():
            if not item.finished and item.written > now - _IDLE_SECONDS and item.version.name not in planned:
                raise VecapError(
                    f"version {item.version.name} is in progress and may read what would be deleted; wait until it is "
                    f"finished, or for an hour after its last write"
                )
    gone, kept = [], list(plan.kept)
    for removal in plan.removals:
        why = None
        if removal.version is not None:
            why = _remove_version(store, removal, removal.version, external_uses, now)
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
    store: Store, removal: Removal, version: Version, external_uses: ExternalUses, now: float
) -> str | None:
    """Delete *version*. If something needs it, keep it and return the reason."""
    if removal.what != "remains":
        when = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        try:
            tombstone(store, version, Deletion(when, removal.why, removal.digest))
        except FileNotFoundError:
            return None  # another `vecap gc` was faster
    # Check again after the tombstone hides it from new users; an interrupted deletion may not have got this far.
    reasons = take_inventory(store, version.dataset).in_use({version.name})
    published = read_manifest(store, f"{version.folder}/assemble")
    if published is not None and removal.digest is None:
        reasons[version.name] = "it was published after the plan was made"
    elif published is not None:
        reasons |= external_uses({version.name: published.digest})
    if version.name in reasons:
        restore(store, version)
        return reasons[version.name]
    manifests = [file.path for file in store.tree(version.folder) if file.path.endswith(f"/{NAME}")]
    for manifest in sorted(manifests, key=lambda path: "/assemble/" not in path):  # the publishing manifest first
        store.remove(manifest)
    for name in store.folders(version.folder):
        store.remove_folder(f"{version.folder}/{name}")
    if removal.digest is None:
        purge(store, version)
    return None
