"""Files of unfinished stages with records of their digests: a record or receipt for each, or an index of a step.

Also compares the recorded files that a stage reads, and discards unfinished work that may depend on a corrupt one.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from vecap_tasks.core.manifest import RECEIPTS, FileEntry, ShardResult, seal, unseal
from vecap_tasks.core.store import Store
from vecap_tasks.core.verify import MISSING, RecordedFile, check_recorded, find_differing, raise_differing
from vecap_tasks.errors import CorruptError, VecapError

log = logging.getLogger(__name__)

RECORD = ".json"  # suffix of a record
_INDEX = "index.json"
_THREADS = 8  # requests at once; hashing releases the GIL


def put_recorded(store: Store, name: str, path: Path) -> None:
    """Publish the local file *path* as *name*, then its record, which marks it as finished."""
    entry = FileEntry.from_file(path.parent, path.name, None)
    store.upload(name, path)
    put_record(store, name, entry)


@dataclass(frozen=True, slots=True)
class Index:
    """The files that one step of an unfinished stage made, by name in their folder, and other results of the step."""

    files: dict[str, RecordedFile]
    body: dict[str, Any]


def read_index(store: Store, folder: str) -> Index | None:
    """Return the index of *folder*, None if the step is not finished. Raises CorruptError if it changed."""
    where = f"{folder}/{_INDEX}"
    remedy = f"restore it, or delete {where} and run the stage again"
    try:
        body = unseal(store.read(where), where, remedy)
    except FileNotFoundError:
        return None
    try:
        files = {
            name: RecordedFile(store, f"{folder}/{name}", size, sha256, remedy)
            for name, (size, sha256) in body["files"].items()
        }
        return Index(files, body["body"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{where} is corrupt: {error}; {remedy}") from error


class IndexedUploads:
    """Publishes the files of one step to *folder*, several at once on object storage, then their index.

    The index makes the step finished; `finish` writes it, unless another run has. Files of equal steps are equal.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "upload")
        self._pending: deque[Future[None]] = deque()
        self._entries: dict[str, tuple[int, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def add(self, path: Path) -> None:
        """Publish the local file *path*, which is moved, under its name. Raises the error of an earlier file."""
        entry = FileEntry.from_file(path.parent, path.name, None)
        self._entries[path.name] = entry.bytes, entry.sha256
        if not self._store.remote:
            self._store.upload(f"{self._folder}/{path.name}", path)
            return
        if len(self._pending) >= 2 * _THREADS:
            self._pending.popleft().result()
        self._pending.append(self._threads.submit(self._upload, path))

    def _upload(self, path: Path) -> None:
        self._store.upload(f"{self._folder}/{path.name}", path)
        path.unlink()

    def finish(self, body: Mapping[str, Any]) -> None:
        """Write the index with *body*, after all files. Raises the error of a file."""
        while self._pending:
            self._pending.popleft().result()
        sealed = seal({"files": self._entries, "body": body})
        self._store.create(f"{self._folder}/{_INDEX}", json.dumps(sealed, sort_keys=True).encode())


def put_record(store: Store, name: str, entry: FileEntry) -> None:
    """Write the record *name* of an unfinished stage's file. Its digest is that of *entry*."""
    store.put(f"{name}{RECORD}", json.dumps(seal({"bytes": entry.bytes, "sha256": entry.sha256})).encode())


def recorded_file(store: Store, name: str, record: str | None = None) -> RecordedFile:
    """Return the file *name* of an unfinished stage with its *record*, by default of the same name.

    Raises FileNotFoundError if there is no record, and CorruptError if it changed.
    """
    where = f"{record or name}{RECORD}"
    remedy = f"restore it, or delete {where} and run the stage again"
    body = unseal(store.read(where), where, remedy)
    try:
        return RecordedFile(store, name, body["bytes"], body["sha256"], remedy)
    except KeyError as error:
        raise CorruptError(f"{where} is corrupt: it has no {error}; {remedy}") from error


def fetch_intermediate(store: Store, names: Iterable[str], folder: Path) -> list[str]:
    """Return local paths to the files *names* of an unfinished stage: themselves, or copies in *folder*.

    Compares them with their records, and removes those that differ, because of corruption or because two runs made them
    at once, so that the next run makes them again. Raises VecapError if there is one.
    """

    def get(name: str) -> tuple[str, str | None]:
        try:
            return recorded_file(store, name).local(folder), None
        except FileNotFoundError:
            return "", f"{name} has no record"
        except CorruptError as error:
            return "", str(error).partition(";")[0]

    folder.mkdir(parents=True, exist_ok=True)
    listed = list(names)
    paths, problems = [], []
    with ThreadPoolExecutor(_THREADS, "fetch") as threads:
        for name, (path, problem) in zip(listed, threads.map(get, listed), strict=True):
            paths.append(path)
            if problem is not None:
                problems.append(problem)
                store.remove(f"{name}{RECORD}")
                store.remove(name)
    if problems:
        others = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise VecapError(f"{problems[0]}; it was removed, run the same command again{others}")
    return paths


def receipted_files(store: Store, folder: str, stage: str, results: Iterable[ShardResult]) -> list[RecordedFile]:
    """Return the files of a stage's finished shards with their records in the receipts *results*."""
    return [
        RecordedFile(
            store,
            f"{folder}/{entry.path}",
            entry.bytes,
            entry.sha256,
            f"restore it, or delete {folder}/{RECEIPTS}/{result.shard}.json and run `vecap {stage}` again",
        )
        for result in results
        for entry in result.files
    ]


def fetch(files: Sequence[RecordedFile], folder: Path) -> list[str]:
    """Return local paths to *files* for queries: the files themselves, or copies in *folder*, several at once.

    Compares each file with its record as it is read. Raises CorruptError for the first that differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_THREADS, "fetch") as threads:
        return list(threads.map(lambda file: file.local(folder), files))


class ReadCheck:
    """Compares the files that a stage reads with their records, each file once per process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._checked: set[str] = set()

    def check(self, files: Iterable[RecordedFile]) -> None:
        """Compare those of *files* that were not compared yet. Raises CorruptError for the first that differs."""
        with self._lock:
            pending = [file for file in files if file.name not in self._checked]
            check_recorded(pending)
            self._checked.update(file.name for file in pending)

    def check_all(self, files: Sequence[RecordedFile], store: Store, folder: str, max_bytes: float = math.inf) -> None:
        """Compare *files*, which the stage in *folder* reads: the sizes, and the hashes if they have at most
        *max_bytes* together.

        Raises CorruptError if one differs. If one was changed, the stage's unfinished work may depend on it and is
        discarded; no work can depend on a missing file.
        """
        read = sum(file.bytes for file in files) <= max_bytes
        differing = find_differing(files, read=read)
        changed = any(problem != MISSING for _, problem in differing)
        for name in store.folders(folder) if changed else ():
            if name.startswith("_"):  # receipts, checkpoints
                log.warning("discarding %s/%s: it may depend on a corrupt file", folder, name)
                store.remove_folder(f"{folder}/{name}")
        for file, problem in differing:
            if problem != MISSING and file.name.startswith(f"{folder}/"):  # an intermediate file: made again
                store.remove(file.name)
        raise_differing(differing)
        if read:
            with self._lock:
                self._checked.update(file.name for file in files)


class Attachments:
    """Publishes one run's attachments to the stage in *folder* of the store.

    Concurrent runs each upload an offer to *scratch*; the first to register its own wins.
    """

    def __init__(self, store: Store, folder: str, scratch: str) -> None:
        self._store = store
        self._folder = folder
        self._taken = f"{scratch}/taken"
        self._offer = f"{scratch}/{uuid.uuid4().hex}"

    def publish(self, names: Sequence[str], work: Path, committed: Callable[[], bool]) -> tuple[FileEntry, ...]:
        """Upload the files *names* of *work* as an offer, copy the winning offer to the stage, and return its entries.

        *committed* returns whether the stage has its manifest.
        """
        if not names:
            return ()
        entries = [FileEntry.from_file(work, name, None) for name in sorted(names)]
        for entry in entries:
            self._store.upload(f"{self._offer}/{entry.path}", work / entry.path)
        body: dict[str, Any] = {"offer": self._offer, "entries": [asdict(entry) for entry in entries]}
        if not self._store.create(self._taken, json.dumps(seal(body)).encode()):
            body = unseal(self._store.read(self._taken), self._taken, "delete it and run again")
            entries = [FileEntry(**item) for item in body["entries"]]
        try:
            for entry in entries:
                if not entry.exists_in(self._store, self._folder):
                    self._store.copy(f"{body['offer']}/{entry.path}", f"{self._folder}/{entry.path}")
        except FileNotFoundError:
            if not committed():  # once committed, the files are there and the winner has removed its offer
                raise
        return tuple(entries)

    def clear(self) -> None:
        """Remove this run's offer. Call it after the stage is committed."""
        self._store.remove_folder(self._offer)
