"""Intermediate files of unfinished stages, each with a record of its digest that is written last."""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from vecap_tasks.core.manifest import FileEntry, seal, unseal
from vecap_tasks.core.store import Store
from vecap_tasks.core.temporary import temporary_folder
from vecap_tasks.core.verify import RecordedFile
from vecap_tasks.errors import CorruptError, VecapError

RECORD = ".json"  # suffix of a record
_THREADS = 8  # requests at once; hashing releases the GIL


def put_recorded(store: Store, name: str, path: Path) -> None:
    """Publish the local file *path* as *name*, then its record, which marks it as finished."""
    entry = FileEntry.from_file(path.parent, path.name, None)
    store.upload(name, path)
    put_record(store, name, entry)


class Uploads:
    """Publishes files with their records, several at once on object storage. The block ends when all are published."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, "upload")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._threads:
            while self._pending and kind is None:
                self._pending.popleft().result()

    def add(self, name: str, path: Path) -> None:
        """Publish the local file *path*, which is moved, as *name*. Raises the error of an earlier file."""
        if not self._store.remote:
            put_recorded(self._store, name, path)
            return
        if len(self._pending) >= 2 * _THREADS:
            self._pending.popleft().result()
        own = path.rename(path.with_name(f"{uuid.uuid4().hex}{path.suffix}"))
        self._pending.append(self._threads.submit(self._upload, name, own))

    def _upload(self, name: str, path: Path) -> None:
        put_recorded(self._store, name, path)
        path.unlink()


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


def check_intermediate(store: Store, names: Iterable[str]) -> None:
    """Compare the files *names* of an unfinished stage with their records, as `fetch_intermediate` does."""
    with temporary_folder() as folder:
        fetch_intermediate(store, names, folder / "files")
