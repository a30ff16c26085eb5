"""Every file of a version against its manifest, and every manifest against those that it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vecap_tasks.core.manifest import NAME, Manifest, read_manifest
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import DATASET_STAGES, Version
from vecap_tasks.errors import CorruptError, VecapError

KEYED_STAGES = ("train", "evaluate")
CHANGED = "was changed: its sha256 is not the manifest's"
MISSING = "is missing"
_READERS = 8  # threads; hashing releases the interpreter


@dataclass(frozen=True, slots=True)
class Corruption:
    """What is wrong with one file; `path` is its name in the store."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file of *store* and what is recorded of it; `remedy` says what to do if the file differs."""

    store: Store
    name: str
    bytes: int
    sha256: str
    remedy: str

    def problem(self, *, read: bool = True) -> str | None:
        """Return how the file differs, None if it does not: its size and, if *read*, its sha256.

        Raises OSError if it cannot be read.
        """
        try:
            size = self.store.size(self.name)
            if size != self.bytes:
                return f"has {size:,} bytes, the manifest says {self.bytes:,}"
            if read and self.store.sha256(self.name) != self.sha256:
                return CHANGED
        except FileNotFoundError:
            return MISSING
        return None

    @contextmanager
    def checked(self) -> Iterator[Path]:
        """Give a local path to the file. Raises CorruptError if it was changed or is missing."""
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self.store.local(self.name))
            except FileNotFoundError:
                raise CorruptError(f"{self.name} {MISSING}; {self.remedy}") from None
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            if sha256 != self.sha256:
                raise CorruptError(f"{self.name} {CHANGED}; {self.remedy}")
            yield path


@dataclass(frozen=True, slots=True)
class Upstream:
    """A finished stage that a later one reads. `folder` is where the later stage's version has it; the files may lie
    in the folder of another revision, which the manifest names."""

    store: Store
    folder: str
    manifest: Manifest

    def files(self, names: Iterable[str] | None = None) -> list[RecordedFile]:
        """Return the files *names* (in the store), by default all, with what the manifest says of them."""
        stage, place = self.manifest.stage, self.manifest.location
        folders = self.folder if self.folder == place else f"{self.folder} and {place}"
        return recorded(
            self.store, self.manifest, names, f"restore it, or delete {folders} and run `vecap {stage}` again"
        )


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found in a version: how much was read, and all damages, by path."""

    files: int
    bytes: int
    corruptions: tuple[Corruption, ...]


def verify_version(store: Store, version: Version) -> Verification:
    """Read every file of every finished stage of *version*. A stage that is not finished yet is no damage."""
    corruptions: list[Corruption] = []
    manifests: dict[str, Manifest] = {}
    files, size = 0, 0
    for folder in stage_folders(store, version):
        try:
            manifest = read_manifest(store, folder)
        except VecapError as error:
            corruptions.append(Corruption(f"{folder}/{NAME}", str(error)))
            continue
        if manifest is None:
            continue
        manifests[folder] = manifest
        entries = (*manifest.files, *manifest.attachments)
        files += len(entries)
        size += sum(entry.bytes for entry in entries)
        corruptions += check_files(store, manifest)
    corruptions += _check_version(version, manifests)
    for folder, manifest in manifests.items():
        corruptions += check_inputs(folder, manifest, manifests)
    return Verification(files, size, tuple(sorted(corruptions, key=lambda damage: (damage.path, damage.problem))))


def stage_folders(store: Store, version: Version) -> list[str]:
    """Return the folders of *version* that may hold a stage, in the order of the work."""
    folders = [f"{version.folder}/{stage}" for stage in DATASET_STAGES]
    for stage in KEYED_STAGES:
        place = f"{version.folder}/{stage}"
        folders += [f"{place}/{name}" for name in store.folders(place)]
    return folders


def check_files(store: Store, manifest: Manifest) -> list[Corruption]:
    """Return the files of a stage that are missing, changed, or listed nowhere."""
    listed = {entry.path for entry in (*manifest.files, *manifest.attachments)}
    found = [Corruption(file.name, problem) for file, problem in _ask(recorded(store, manifest), _described)]
    extra = [path for path in _walk(store, manifest.location) if path not in listed and path != NAME]
    return found + [Corruption(f"{manifest.location}/{path}", "stands in no manifest") for path in extra]


def check_inputs(folder: str, manifest: Manifest, manifests: dict[str, Manifest]) -> list[Corruption]:
    """Return where *manifest* was made from another stage than the one that lies beside it.

    *manifests* are those of the version, by folder.
    """
    corruptions = []
    for item in manifest.inputs:
        if item.kind != "stage":
            continue
        beside = [other for other in manifests.values() if other.stage == item.name]
        if not any(other.digest == item.digest for other in beside):
            problem = f"was made from another {item.name}, with digest {item.digest[:12]}"
            corruptions.append(Corruption(f"{folder}/{NAME}", problem))
    return corruptions


def recorded(
    store: Store, manifest: Manifest, names: Iterable[str] | None = None, remedy: str = ""
) -> list[RecordedFile]:
    """Return the files *names* (in the store) of a stage, by default all; attachments too."""
    found = [
        RecordedFile(store, f"{manifest.location}/{entry.path}", entry.bytes, entry.sha256, remedy)
        for entry in (*manifest.files, *manifest.attachments)
    ]
    wanted = None if names is None else set(names)
    return [file for file in found if wanted is None or file.name in wanted]


def find_differing(files: Sequence[RecordedFile], *, read: bool = True) -> list[tuple[RecordedFile, str]]:
    """Return those of *files* that differ, and how; *read* as for `Recorded.problem`.

    Raises OSError if one cannot be read.
    """
    return _ask(files, lambda file: file.problem(read=read))


def _ask(files: Sequence[RecordedFile], ask: Callable[[RecordedFile], str | None]) -> list[tuple[RecordedFile, str]]:
    with ThreadPoolExecutor(_READERS, "verify") as threads:
        problems = threads.map(ask, files)
        return [(file, problem) for file, problem in zip(files, problems, strict=True) if problem is not None]


def _described(file: RecordedFile) -> str | None:
    try:
        return file.problem()
    except OSError as error:
        return f"cannot be read: {error}"


def _walk(store: Store, folder: str, below: str = "") -> Iterator[str]:
    """Give the files under *folder*, relative to it. Names with _ in front are a stage's own working files."""
    place = f"{folder}/{below}" if below else folder
    for name in store.files(place):
        yield f"{below}/{name}" if below else name
    for name in store.folders(place):
        if not (below == "" and name.startswith("_")):
            yield from _walk(store, folder, f"{below}/{name}" if below else name)


def _check_version(version: Version, manifests: dict[str, Manifest]) -> list[Corruption]:
    last = manifests.get(f"{version.folder}/assemble")
    if last is None:
        return []
    corruptions = []
    if last.fingerprint != version.fingerprint:
        corruptions.append(
            Corruption(f"{version.folder}/assemble/{NAME}", "belongs to another version: its fingerprint differs")
        )
    for stage in DATASET_STAGES:
        if f"{version.folder}/{stage}" not in manifests:
            corruptions.append(
                Corruption(f"{version.folder}/{stage}/{NAME}", "is missing or damaged, and the version is published")
            )
    return corruptions


def read_verified_manifest(store: Store, folder: str) -> Manifest:
    """Return the manifest in *folder*. Raises CorruptError where it is missing or was changed."""
    manifest = read_manifest(store, folder)
    if manifest is None:
        raise CorruptError(f"{folder}/{NAME} is missing; restore it, or make the stage again")
    return manifest
