"""Every file of a version against its manifest, and every manifest against those that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vecap_tasks.dataset.manifest import NAME, FileEntry, Manifest, read_manifest
from vecap_tasks.dataset.store import Store
from vecap_tasks.dataset.version import DATASET_STAGES, Version
from vecap_tasks.errors import DamagedError, VecapError

KEYED_STAGES = ("train", "evaluate")


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with one file; `path` is its name in the store."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found in a version: how much was read, and all damages, by path."""

    files: int
    bytes: int
    damages: tuple[Damage, ...]


def verify_version(store: Store, version: Version) -> Verification:
    """Read every file of every finished stage of *version*. A stage that is not finished yet is no damage."""
    damages: list[Damage] = []
    manifests: dict[str, Manifest] = {}
    files, size = 0, 0
    for folder in stage_folders(store, version):
        try:
            manifest = read_manifest(store, folder)
        except VecapError as error:
            damages.append(Damage(f"{folder}/{NAME}", str(error)))
            continue
        if manifest is None:
            continue
        manifests[folder] = manifest
        entries = (*manifest.files, *manifest.attachments)
        files += len(entries)
        size += sum(entry.bytes for entry in entries)
        damages += check_files(store, manifest)
    damages += _check_version(version, manifests)
    for folder, manifest in manifests.items():
        damages += check_inputs(folder, manifest, manifests)
    return Verification(files, size, tuple(sorted(damages, key=lambda damage: (damage.path, damage.problem))))


def stage_folders(store: Store, version: Version) -> list[str]:
    """Return the folders of *version* that may hold a stage, in the order of the work."""
    folders = [f"{version.folder}/{stage}" for stage in DATASET_STAGES]
    for stage in KEYED_STAGES:
        place = f"{version.folder}/{stage}"
        folders += [f"{place}/{name}" for name in store.folders(place)]
    return folders


def check_files(store: Store, manifest: Manifest) -> list[Damage]:
    """Return the files of a stage that are missing, changed, or listed nowhere."""
    entries = (*manifest.files, *manifest.attachments)
    listed = {entry.path for entry in entries}
    found = [Damage(f"{manifest.location}/{entry.path}", problem) for entry, problem in _changed(store, manifest)]
    extra = [path for path in _walk(store, manifest.location) if path not in listed and path != NAME]
    return found + [Damage(f"{manifest.location}/{path}", "stands in no manifest") for path in extra]


def check_inputs(folder: str, manifest: Manifest, manifests: dict[str, Manifest]) -> list[Damage]:
    """Return where *manifest* was made from another stage than the one that lies beside it.

    *manifests* are those of the version, by folder.
    """
    damages = []
    for item in manifest.inputs:
        if item.kind != "stage":
            continue
        beside = [other for other in manifests.values() if other.stage == item.name]
        if not any(other.digest == item.digest for other in beside):
            problem = f"was made from another {item.name}, with digest {item.digest[:12]}"
            damages.append(Damage(f"{folder}/{NAME}", problem))
    return damages


def _changed(store: Store, manifest: Manifest) -> Iterator[tuple[FileEntry, str]]:
    for entry in (*manifest.files, *manifest.attachments):
        name = f"{manifest.location}/{entry.path}"
        try:
            size = store.size(name)
            if size != entry.bytes:
                yield entry, f"has {size:,} bytes, the manifest says {entry.bytes:,}"
            elif store.sha256(name) != entry.sha256:
                yield entry, "was changed: its sha256 is not the manifest's"
        except FileNotFoundError:
            yield entry, "is missing"
        except OSError as error:
            yield entry, f"cannot be read: {error}"


def _walk(store: Store, folder: str, below: str = "") -> Iterator[str]:
    """Give the files under *folder*, relative to it. Names with _ in front are a stage's own working files."""
    place = f"{folder}/{below}" if below else folder
    for name in store.files(place):
        yield f"{below}/{name}" if below else name
    for name in store.folders(place):
        if not (below == "" and name.startswith("_")):
            yield from _walk(store, folder, f"{below}/{name}" if below else name)


def _check_version(version: Version, manifests: dict[str, Manifest]) -> list[Damage]:
    last = manifests.get(f"{version.folder}/assemble")
    if last is None:
        return []
    damages = []
    if last.fingerprint != version.fingerprint:
        damages.append(
            Damage(f"{version.folder}/assemble/{NAME}", "belongs to another version: its fingerprint differs")
        )
    for stage in DATASET_STAGES:
        if f"{version.folder}/{stage}" not in manifests:
            damages.append(
                Damage(f"{version.folder}/{stage}/{NAME}", "is missing or damaged, and the version is published")
            )
    return damages


def read_sound_manifest(store: Store, folder: str) -> Manifest:
    """Return the manifest in *folder*. Raises DamagedError where it is missing or was changed."""
    manifest = read_manifest(store, folder)
    if manifest is None:
        raise DamagedError(f"{folder}/{NAME} is missing; restore it, or make the stage again")
    return manifest
