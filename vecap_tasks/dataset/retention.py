"""What may go by the retention policy, and why; and how it goes, so that a kill at any moment does no harm.

A version goes in this order: a tombstone in its `version.json`, from when on no reader and no other version finds it;
a second look at who refers to it; its manifests; its files. A name that was published keeps its tombstone for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from vecap_tasks.config import RetentionConfig
from vecap_tasks.dataset.inventory import Inventory, Item, take_inventory
from vecap_tasks.dataset.manifest import NAME, read_manifest
from vecap_tasks.dataset.store import STAGING, Store, Stored
from vecap_tasks.dataset.version import Deletion, Version, bury, deleted_versions, forget, unbury
from vecap_tasks.errors import VecapError

_DAY = 86_400.0
_QUIET = 3_600.0  # seconds without a file written after which nobody is at work on a version

# Asked for published versions (name to digest): which must stay for a reason outside the store, by name, and why.
Elsewhere = Callable[[Mapping[str, str]], Mapping[str, str]]


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


def plan_removals(store: Store, dataset: str, policy: RetentionConfig, elsewhere: Elsewhere, now: float) -> Plan:
    """Return what may go of *dataset* at the time *now* (seconds since the epoch). Nothing is changed.

    Raises DamagedError where the store cannot be read through, and whatever *elsewhere* raises.
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
    by_entry: dict[str, list[Stored]] = {}
    for file in store.tree(STAGING):
        by_entry.setdefault(file.path.split("/")[1], []).append(file)
    for name, files in by_entry.items():
        if all(file.written < old for file in files):
            yield _removal("staging", f"{STAGING}/{name}", "a process that wrote it was killed", files)


def _removal(what: str, path: str, why: str, files: Sequence[Stored], item: Item | None = None) -> Removal:
    published = item.published if item else None
    version, digest = (item.version if item else None), (published.digest if published else None)
    return Removal(what, path, why, len(files), sum(file.bytes for file in files), version, digest)


def remove(store: Store, dataset: str, plan: Plan, elsewhere: Elsewhere, now: float) -> Plan:
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


def _remove_version(store: Store, removal: Removal, version: Version, elsewhere: Elsewhere, now: float) -> str | None:
    """Delete *version*; return why it was not, where something came to need it since the plan was made."""
    if removal.what != "remains":
        when = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        try:
            bury(store, version, Deletion(when, removal.why, removal.digest))
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
        unbury(store, version)
        return reasons[version.name]
    manifests = [file.path for file in store.tree(version.folder) if file.path.endswith(f"/{NAME}")]
    for manifest in sorted(manifests, key=lambda path: "/assemble/" not in path):  # what publishes it first
        store.remove(manifest)
    for name in store.folders(version.folder):
        store.remove_folder(f"{version.folder}/{name}")
    if removal.digest is None:
        forget(store, version)
    return None
