"""Verifies every file of a version against its manifest, and every manifest against its upstream manifests."""

from __future__ import annotations

import builtins  # `bytes` is a field of RecordedFile
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import SEEK_END
from pathlib import Path, PurePosixPath
from typing import IO

from vecap_tasks.core.manifest import NAME, Manifest, read_manifest
from vecap_tasks.core.object_storage import digest_stream
from vecap_tasks.core.stage_records import SUMMARY, summary_problem
from vecap_tasks.core.store import Store
from vecap_tasks.core.tar import read_images
from vecap_tasks.core.version import DATASET_STAGES, Version
from vecap_tasks.errors import CorruptError, VecapError

KEYED_STAGES = ("train", "evaluate")
IMAGES = "images"  # kind of the input of `assemble` that has the tars of an earlier version
CHANGED = "is corrupt: its sha256 differs from the manifest"
MISSING = "is missing"
_THREADS = 8  # hashing releases the GIL
_ONE_REQUEST = 16 << 20  # bytes; larger files are read in blocks


@dataclass(frozen=True, slots=True)
class Corruption:
    """A problem with one file; `path` is its name in the store."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A file of *store* and its record; `remedy` is what to do if the file differs."""

    store: Store
    name: str
    bytes: int
    sha256: str
    remedy: str

    def problem(self) -> str | None:
        """Return how size or sha256 differ from the record, or None.

        Raises OSError if the file cannot be read.
        """
        try:
            if self.bytes <= _ONE_REQUEST:
                data = self.store.read(self.name)
                return self.size_problem(len(data)) or self._digest_problem(hashlib.sha256(data).hexdigest())
            with self.store.open(self.name) as stream:
                if problem := self.size_problem(stream.seek(0, SEEK_END)):
                    return problem
                stream.seek(0)
                return self._digest_problem(digest_stream(stream))
        except FileNotFoundError:
            return MISSING

    def _digest_problem(self, sha256: str) -> str | None:
        return None if sha256 == self.sha256 else CHANGED

    def size_problem(self, size: int | None) -> str | None:
        """Return how *size*, None for a missing file, differs from the record, or None."""
        if size is None:
            return MISSING
        return None if size == self.bytes else f"has {size:,} bytes, but the manifest records {self.bytes:,}"

    def read(self) -> builtins.bytes:
        """Return the content. Raises CorruptError if the file is missing or corrupt."""
        try:
            data = self.store.read(self.name)
        except FileNotFoundError:
            raise self._corrupt(MISSING) from None
        self._compare(hashlib.sha256(data).hexdigest())
        return data

    def local(self, folder: Path) -> str:
        """Return a local path to the content: the file itself, or a copy in *folder* of an object.

        Raises CorruptError if the file is missing or corrupt.
        """
        if not self.store.remote:
            problem = self.problem()
            if problem is not None:
                raise self._corrupt(problem)
            return self.store.path(self.name)
        path = folder / Path(self.name).name
        if self.bytes <= _ONE_REQUEST:
            path.write_bytes(self.read())
            return str(path)
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(self.store.open(self.name))
            except FileNotFoundError:
                raise self._corrupt(MISSING) from None
            self._compare(digest_stream(stream, stack.enter_context(path.open("wb"))))
        return str(path)

    def images(self, wanted: Mapping[str, str | None]) -> Iterator[tuple[str, builtins.bytes]]:
        """Yield key and JPEG of the *wanted* samples of this tar of a crawl, as `read_images` does.

        An image is compared with its own sha256. Crawls of earlier releases have none; then the whole tar is checked
        first. Raises CorruptError if an image or the file is missing or corrupt.
        """
        with self.open(check=None in wanted.values()) as stream:
            yield from read_images(stream, self.name, wanted, self.remedy)

    @contextmanager
    def open(self, *, check: bool = True) -> Iterator[IO[builtins.bytes]]:
        """Yield a seekable stream of the file, or of a temporary copy from object storage.

        If *check*, the whole file is compared with its record first; the page cache makes the second read cheap.
        Raises CorruptError if the file is missing or corrupt.
        """
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self.store.local(self.name))
            except FileNotFoundError:
                raise self._corrupt(MISSING) from None
            stream = stack.enter_context(path.open("rb"))
            if check:
                self._compare(hashlib.file_digest(stream, "sha256").hexdigest())
                stream.seek(0)
            yield stream

    def _compare(self, sha256: str) -> None:
        if sha256 != self.sha256:
            raise self._corrupt(CHANGED)

    def _corrupt(self, problem: str) -> CorruptError:
        return CorruptError(f"{self.name} {problem}; {self.remedy}")


Check = Callable[[RecordedFile], str | None]  # returns the problem with a file
Count = Callable[[RecordedFile], None]


@dataclass(frozen=True, slots=True)
class Upstream:
    """A finished stage that a later one reads. `folder` is its folder in the later stage's version; if it was reused,
    the files are in the folder of another revision, `manifest.location`."""

    store: Store
    folder: str
    manifest: Manifest

    @property
    def remedy(self) -> str:
        """What to do if a file differs."""
        stage, location = self.manifest.stage, self.manifest.location
        folders = self.folder if self.folder == location else f"{self.folder} and {location}"
        return f"restore it, or delete {folders} and run `vecap {stage}` again"

    def files(self, names: Iterable[str] | None = None) -> list[RecordedFile]:
        """Return the files *names* (in the store), by default all, with their records."""
        return recorded_files(self.store, self.manifest, names, self.remedy)


@dataclass(frozen=True, slots=True)
class Verification:
    """The result for a version: how much was read, and all problems, sorted by path."""

    files: int
    bytes: int
    corruptions: tuple[Corruption, ...]


def verify_version(
    store: Store,
    version: Version,
    report: Callable[[int, int], None] = lambda done, total: None,
    check: Check | None = None,
) -> Verification:
    """Check every file of every finished stage of *version*, and the tars of an earlier version that it refers to.

    An unfinished stage is not a problem. *report* takes the bytes that have been checked, and all bytes. *check* is as
    in `check_files`.
    """
    corruptions: list[Corruption] = []
    manifests: dict[str, Manifest] = {}
    for folder in stage_folders(store, version):
        try:
            manifest = read_manifest(store, folder)
        except VecapError as error:
            corruptions.append(Corruption(f"{folder}/{NAME}", str(error)))
            continue
        if manifest is None:
            continue
        manifests[folder] = manifest
    shared: list[RecordedFile] = []
    for folder, manifest in manifests.items():
        try:
            shared += referenced_tars(store, manifest)
        except VecapError as error:
            corruptions.append(Corruption(f"{folder}/{NAME}", str(error)))
    entries = [entry for manifest in manifests.values() for entry in (*manifest.files, *manifest.attachments)]
    size = sum(entry.bytes for entry in entries) + sum(file.bytes for file in shared)
    files, done = len(entries) + len(shared), 0

    def count(file: RecordedFile) -> None:
        nonlocal done
        done += file.bytes
        report(done, size)

    for folder, manifest in manifests.items():
        corruptions += check_files(store, manifest, count, check)
        if (problem := summary_problem(store, folder, manifest)) is not None:
            corruptions.append(Corruption(f"{folder}/{SUMMARY}", problem))
        corruptions += check_inputs(folder, manifest, manifests)
    corruptions += [Corruption(file.name, problem) for file, problem in _check(shared, check or file_problem, count)]
    corruptions += _check_version(version, manifests)
    return Verification(files, size, tuple(sorted(corruptions, key=lambda item: (item.path, item.problem))))


def stage_folders(store: Store, version: Version) -> list[str]:
    """Return the folders of *version* that may hold a stage, in stage order."""
    folders = [f"{version.folder}/{stage}" for stage in DATASET_STAGES]
    for stage in KEYED_STAGES:
        folder = f"{version.folder}/{stage}"
        folders += [f"{folder}/{name}" for name in store.folders(folder)]
    return folders


def check_files(
    store: Store, manifest: Manifest, count: Count = lambda file: None, check: Check | None = None
) -> list[Corruption]:
    """Return the files of a stage that are missing, corrupt, or not listed; call *count* with each that was checked.

    *check* returns the problem with a file, or None; by default it is `file_problem`. Threads call it.
    """
    listed = {entry.path for entry in (*manifest.files, *manifest.attachments)}
    differing = _check(recorded_files(store, manifest), check or file_problem, count)
    found = [Corruption(file.name, problem) for file, problem in differing]
    extra = [path for path in _walk(store, manifest.location) if path not in listed | {NAME, SUMMARY}]
    return found + [Corruption(f"{manifest.location}/{path}", "is not listed in any manifest") for path in extra]


def check_inputs(folder: str, manifest: Manifest, manifests: dict[str, Manifest]) -> list[Corruption]:
    """Return a problem for every upstream stage that differs from the one in the version.

    *manifests* are those of the version, by folder.
    """
    corruptions = []
    for item in manifest.inputs:
        if item.kind != "stage":
            continue
        candidates = [other for other in manifests.values() if other.stage == item.name]
        if not any(other.digest == item.digest for other in candidates):
            problem = f"was created from a different {item.name} stage, with digest {item.digest[:12]}"
            corruptions.append(Corruption(f"{folder}/{NAME}", problem))
    return corruptions


def without_tars(files: Iterable[RecordedFile]) -> list[RecordedFile]:
    """Return the *files* except tars, which are large and have other checks."""
    return [file for file in files if not file.name.endswith(".tar")]


def recorded_files(
    store: Store, manifest: Manifest, names: Iterable[str] | None = None, remedy: str = ""
) -> list[RecordedFile]:
    """Return the files *names* (in the store) of a stage, by default all, including attachments."""
    found = [
        RecordedFile(store, f"{manifest.location}/{entry.path}", entry.bytes, entry.sha256, remedy)
        for entry in (*manifest.files, *manifest.attachments)
    ]
    wanted = None if names is None else set(names)
    return [file for file in found if wanted is None or file.name in wanted]


def image_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Return the manifest that lists the tars with the images of *manifest*, one of `assemble`: of an earlier version,
    or itself. Raises CorruptError if that of the earlier version is missing or changed."""
    reference = next((item for item in manifest.inputs if item.kind == IMAGES), None)
    if reference is None:
        return manifest
    found = read_manifest(store, reference.name)
    if found is None or found.digest != reference.digest:
        raise CorruptError(
            f"{reference.name} has images of {manifest.location} and {MISSING if found is None else 'has changed'}; "
            "restore it, or run the interval again to create a revision"
        )
    return found


def referenced_tars(store: Store, manifest: Manifest) -> list[RecordedFile]:
    """Return the tars of an earlier version with the images of the shards of *manifest*, one of `assemble`, that have
    no tar. Raises CorruptError as `image_manifest` does."""
    source = image_manifest(store, manifest)
    if source is manifest:
        return []
    tables, tars = ({PurePosixPath(name).stem for name in manifest.files_ending(end)} for end in (".parquet", ".tar"))
    names = [name for name in source.files_ending(".tar") if PurePosixPath(name).stem in tables - tars]
    if len(names) < len(tables - tars):
        raise CorruptError(f"{manifest.location} has a shard without images; run `vecap verify`")
    return recorded_files(store, source, names, "restore it")


def find_differing(files: Sequence[RecordedFile], *, read: bool = True) -> list[tuple[RecordedFile, str]]:
    """Return the *files* that differ, and how. Without *read*, compares only sizes, with one listing per folder.

    Raises OSError if one cannot be read.
    """
    if read:
        return _check(files, RecordedFile.problem)
    folders: dict[tuple[str, str], dict[str, int]] = {}
    found = []
    for file in files:
        folder, _, name = file.name.rpartition("/")
        key = file.store.root, folder
        if key not in folders:
            folders[key] = {found.path: found.bytes for found in file.store.written(folder)}
        if problem := file.size_problem(folders[key].get(name)):
            found.append((file, problem))
    return found


def check_recorded(files: Sequence[RecordedFile]) -> None:
    """Compare *files* with their records. Raises CorruptError for the first that differs."""
    raise_differing(find_differing(files))


def raise_differing(differing: Sequence[tuple[RecordedFile, str]]) -> None:
    """Raise CorruptError for the first of the *differing* files, if any."""
    if differing:
        (file, problem), *more = differing
        others = f" (and {len(more)} more files)" if more else ""
        raise CorruptError(f"{file.name} {problem}; {file.remedy}{others}")


def read_file(store: Store, manifest: Manifest, path: str) -> bytes:
    """Return the content of the file *path* of a stage. Raises CorruptError if it is missing or corrupt."""
    remedy = f"restore it, or delete {manifest.location} and run `vecap {manifest.stage}` again"
    (file,) = recorded_files(store, manifest, [manifest.file(path)], remedy)
    return file.read()


def _check(
    files: Sequence[RecordedFile], check: Check, count: Count = lambda file: None
) -> list[tuple[RecordedFile, str]]:
    differing = []
    with ThreadPoolExecutor(_THREADS, "verify") as threads:
        for file, problem in zip(files, threads.map(check, files), strict=True):
            count(file)
            if problem is not None:
                differing.append((file, problem))
    return differing


def file_problem(file: RecordedFile) -> str | None:
    """Return how *file* differs from its record, or why it cannot be read, or None."""
    try:
        return file.problem()
    except OSError as error:
        return f"cannot be read: {error}"


def _walk(store: Store, folder: str, below: str = "") -> Iterator[str]:
    """Yield the files under *folder*, relative to it, except in its working folders (names that start with _)."""
    current = f"{folder}/{below}" if below else folder
    for name in store.files(current):
        yield f"{below}/{name}" if below else name
    for name in store.folders(current):
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
                Corruption(f"{version.folder}/{stage}/{NAME}", "is missing or corrupt, but the version is published")
            )
    return corruptions


def read_verified_manifest(store: Store, folder: str) -> Manifest:
    """Return the manifest in *folder*. Raises CorruptError if it is missing or corrupt."""
    manifest = read_manifest(store, folder)
    if manifest is None:
        raise CorruptError(f"{folder}/{NAME} is missing; restore it, or run the stage again")
    return manifest
